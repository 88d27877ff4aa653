package audit_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// A file that may not grow, a limit of the process: the kernel refuses the write
// in the middle of the load, as a broken disk does.
func TestFileLimit(t *testing.T) {
	out, err := child("limit:" + t.TempDir()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "file too large")
}

// The folder becomes read-only under the writer, in a mount namespace of the
// child's own. Linux lets a file that is open be written to; the next segment
// cannot be made.
func TestReadOnlyFolder(t *testing.T) {
	cmd := child("readonly:" + t.TempDir())
	ownMounts(cmd)
	out, err := cmd.CombinedOutput()
	skipWithoutMounts(t, out, err)
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "read-only file system")
}

func child(what string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	return cmd
}

// ownMounts gives the child a mount namespace.
func ownMounts(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
}

func skipWithoutMounts(t *testing.T, out []byte, err error) {
	t.Helper()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noMount || err != nil && exit == nil {
		t.Skipf("cannot mount here: %v %s", err, out)
	}
}

// breakDisk is the child.
func breakDisk(what, dir string) int {
	f := limitFiles
	if what == "readonly" {
		f = becomeReadOnly
	}
	if err := f(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// limitFiles is the child of [TestFileLimit].
func limitFiles(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	return breakUnderLoad(filepath.Join(dir, "log"), syscall.EFBIG, func() error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100 << 10, Max: 10 << 20})
	}, func() error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10 << 20, Max: 10 << 20})
	})
}

// becomeReadOnly is the child of [TestReadOnlyFolder].
func becomeReadOnly(dir string) error {
	dir = filepath.Join(dir, "log")
	if err := errors.Join(syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), os.Mkdir(dir, 0o700)); err != nil {
		fmt.Println(err)
		os.Exit(noMount)
	}
	return breakUnderLoad(dir, syscall.EROFS, func() error {
		err := syscall.Mount(dir, dir, "", syscall.MS_BIND, "")
		if err == nil {
			err = syscall.Mount("none", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(noMount)
		}
		return nil
	}, func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// breakUnderLoad serves calls, breaks the disk meanwhile, and mends it.
func breakUnderLoad(dir string, cause error, breakIt, mend func() error) error {
	log, err := audit.Open(dir, &audit.Options{SegmentSize: 200 << 10})
	if err != nil {
		return err
	}
	h := &host{acted: map[uint64]bool{}, answered: map[uint64]bool{}}
	h.serve(log, 4, 10)
	if err := breakIt(); err != nil {
		return err
	}
	h.serve(log, 8, 100)
	before := len(h.acted)
	h.serve(log, 8, 10)
	if len(h.acted) != before {
		return fmt.Errorf("%d acts after the log had failed", len(h.acted)-before)
	}
	err = log.Close()
	if !errors.Is(err, audit.ErrFailed) || !errors.Is(err, cause) {
		return fmt.Errorf("close: %w", err)
	}
	fmt.Println(err)
	if len(h.answered) < 40 || len(h.acted) >= 840 {
		return fmt.Errorf("%d acts, %d answers", len(h.acted), len(h.answered))
	}
	// While it is broken, nothing opens it.
	if log, err := audit.Open(dir, nil); err == nil {
		// A limit of this size lets a log be opened, but not grow.
		h.serve(log, 8, 200)
		if err := log.Close(); !errors.Is(err, audit.ErrFailed) {
			return fmt.Errorf("it went on while it was broken: %v", err)
		}
	}
	if err := mend(); err != nil {
		return err
	}
	log, err = audit.Open(dir, nil)
	if err != nil {
		return err
	}
	if err := h.check(log); err != nil {
		return err
	}
	key := log.VerifierKey()
	if err := log.Close(); err != nil {
		return err
	}
	_, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	return err
}

// check compares what the host did with what is on record.
func (h *host) check(log *audit.Log) error {
	intents, outcomes := map[uint64]bool{}, map[uint64]bool{}
	for r, err := range log.Query(ctx, audit.Filter{}) {
		if err != nil {
			return err
		}
		if r.Intent != nil {
			intents[r.Seq] = true
		} else if r.Outcome != nil {
			outcomes[r.Call] = true
		}
	}
	var missing []string
	for seq := range h.acted {
		if !intents[seq] {
			missing = append(missing, fmt.Sprint("an act without intent ", seq))
		}
	}
	for seq := range h.answered {
		if !outcomes[seq] {
			missing = append(missing, fmt.Sprint("an answer without outcome to ", seq))
		}
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, ", "))
	}
	return nil
}

// The file that is written to gets another name, is removed, or another is put in
// its place: from then on nothing is acknowledged.
func TestSegmentLeavesItsName(t *testing.T) {
	for name, move := range map[string]func(segment string) error{
		"renamed": func(s string) error { return os.Rename(s, s+".old") },
		"removed": os.Remove,
		"replaced": func(s string) error {
			data, err := os.ReadFile(s)
			if err == nil {
				err = errors.Join(os.WriteFile(s+".copy", data, 0o600), os.Rename(s+".copy", s))
			}
			return err
		},
		"linked": func(s string) error { return errors.Join(os.Rename(s, s+".old"), os.Symlink(s+".old", s)) },
	} {
		dir := filepath.Join(t.TempDir(), "log")
		log := openLog(t, dir, nil)
		h := &host{acted: map[uint64]bool{}, answered: map[uint64]bool{}}
		h.serve(log, 4, 10)
		require.Len(t, h.answered, 40)
		require.NoError(t, move(filepath.Join(dir, audit.SegmentName(1))))
		h.serve(log, 4, 10)
		assert.Len(t, h.acted, 40, name)
		_, err := log.Begin(ctx, intent("standup", "x"))
		assert.ErrorIs(t, err, audit.ErrFailed, name)
		assert.ErrorContains(t, err, "is not under its name any more", name)
		assert.ErrorIs(t, log.Close(), audit.ErrFailed, name)
	}
}
