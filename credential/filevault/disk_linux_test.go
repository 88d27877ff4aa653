package filevault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

const noMount = 77

// A disk that is full: a small one, in a mount namespace of the child's own.
func TestDiskFull(t *testing.T) {
	cmd := child("full", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noMount || err != nil && exit == nil {
		t.Skipf("cannot mount here: %v %s", err, out)
	}
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
}

// A file that may not grow, a limit of the process, which any user can have.
func TestFileLimit(t *testing.T) {
	out, err := child("limit", t.TempDir()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
}

func fillDisk(dir string) int {
	err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
	if err == nil {
		err = syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=700")
	}
	if err != nil {
		fmt.Println(err)
		return noMount
	}
	return saveUntil(dir, syscall.ENOSPC)
}

func limitFile(dir string) int {
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 16 << 10, Max: 16 << 10}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		fmt.Println(err)
		return 1
	}
	return saveUntil(dir, syscall.EFBIG)
}

// saveUntil puts secrets until the disk refuses, and then looks at what is left.
func saveUntil(dir string, want error) int {
	ctx := context.Background()
	err := func() error {
		kek, err := CreateIdentity(filepath.Join(dir, "key"))
		if err != nil {
			return err
		}
		path := filepath.Join(dir, "vault")
		s, err := Create(ctx, path, kek, nil)
		if err != nil {
			return err
		}
		stored := 0
		for ; err == nil && stored < 1000; stored++ {
			_, err = s.Put(ctx, fmt.Sprintf("name-%d", stored), valueOf("x", uint64(stored)), 0, "")
		}
		stored--
		if !errors.Is(err, want) {
			return fmt.Errorf("after %d secrets: %v, want %w", stored, err, want)
		}
		for range 3 { // it stays so, and harms nothing
			if _, err := s.Put(ctx, "more", valueOf("x", 1), 0, ""); !errors.Is(err, want) {
				return fmt.Errorf("again: %v, want %w", err, want)
			}
		}
		again, err := Open(ctx, path, kek, nil)
		if err != nil {
			return err
		}
		for _, s := range []*Store{s, again} {
			list, err := s.List(ctx, "")
			if err != nil || len(list) != stored {
				return fmt.Errorf("%d secrets of %d are left: %v", len(list), stored, err)
			}
			for i := range stored {
				_, secret, err := s.Get(ctx, credential.Ref{Name: fmt.Sprintf("name-%d", i), Version: 1})
				if err != nil || !secret.Equal(valueOf("x", uint64(i))) {
					return fmt.Errorf("secret %d: %v", i, err)
				}
			}
		}
		fmt.Printf("%d secrets were stored before %v\n", stored, want)
		return nil
	}()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}
