package audit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
)

// A full disk under the log, a real one: a small tmpfs in a mount namespace of
// the child's own, which needs no privilege where user namespaces are allowed.
func TestDiskFull(t *testing.T) {
	cmd := child("full:" + t.TempDir())
	ownMounts(cmd)
	out, err := cmd.CombinedOutput()
	skipWithoutMounts(t, out, err)
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "full after ")
}

const noMount = 77

// fillDisk writes until the disk is full, and checks what is left. It is the
// child of [TestDiskFull].
func fillDisk(dir string) int {
	// Mounts made here must not show outside.
	err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	if err == nil {
		err = syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k")
	}
	if err != nil {
		fmt.Println(err)
		return noMount
	}
	if err := fillAndCheck(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func fillAndCheck(dir string) error {
	logDir := filepath.Join(dir, "log")
	// By default, what is left is kept for outcomes.
	log, err := audit.Open(logDir, nil)
	if err != nil {
		return err
	}
	if _, err := log.Begin(ctx, intent("standup", "x")); !errors.Is(err, audit.ErrFull) {
		return fmt.Errorf("an intent on a small disk: %v", err)
	}
	if err := log.Close(); err != nil {
		return err
	}
	log, err = audit.Open(logDir, &audit.Options{Reserve: -1})
	if err != nil {
		return err
	}
	key, acked := log.VerifierKey(), uint64(0)
	ev := probe("standup", strings.Repeat("x", 1000))
	for err == nil {
		if err = log.Append(ctx, ev); err == nil {
			acked++
		}
	}
	if !errors.Is(err, audit.ErrFailed) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk is full") {
		return fmt.Errorf("not the error of a full disk: %w", err)
	}
	if _, err := log.Begin(ctx, intent("standup", "more")); !errors.Is(err, audit.ErrFailed) {
		return fmt.Errorf("the failure did not stick: %v", err)
	}
	if err := log.Close(); !errors.Is(err, audit.ErrFailed) {
		return fmt.Errorf("close: %v", err)
	}
	rep, err := audit.Verify(ctx, os.DirFS(logDir), &audit.VerifyOptions{Key: key})
	if err != nil || rep.Signed != acked {
		return fmt.Errorf("%d acknowledged, %d signed, %v", acked, rep.Signed, err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=1m"); err != nil {
		return err
	}
	log, err = audit.Open(logDir, &audit.Options{Reserve: -1}) // space was made
	if err != nil {
		return err
	}
	if err := errors.Join(log.Append(ctx, ev), log.Close()); err != nil {
		return err
	}
	fmt.Printf("full after %d\n", acked)
	return nil
}
