package sandbox

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

// files returns the descriptors of the program, and prepares the goroutines
// that copy to and from what is not a file.
func (c *Cmd) files() ([]*os.File, error) {
	files := make([]*os.File, 3, 3+len(c.ExtraFiles))
	var err error
	if files[0], err = c.input(); err != nil {
		return nil, err
	}
	if files[1], err = c.output(c.Stdout); err != nil {
		return nil, err
	}
	if c.Stderr != nil && sameWriter(c.Stdout, c.Stderr) {
		files[2] = files[1]
	} else if files[2], err = c.output(c.Stderr); err != nil {
		return nil, err
	}
	for i, f := range c.ExtraFiles {
		if f == nil {
			return nil, fmt.Errorf("ExtraFiles[%d] is nil", i)
		}
	}
	files = append(files, c.ExtraFiles...)
	for i, f := range files {
		if f == nil {
			continue
		}
		fi, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", i, err)
		}
		if fi.IsDir() {
			return nil, fmt.Errorf("descriptor %d is the directory %s, which would lead out of the sandbox", i, f.Name())
		}
		if f != c.slave && isTerminal(f) {
			return nil, fmt.Errorf("descriptor %d is a terminal of the host, which is never handed in: give the program its own with StartPty and copy", i)
		}
	}
	return files, nil
}

// sameWriter compares without panicking over types that cannot be compared.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

// outcome is what goes on record about the end of the program.
func (c *Cmd) outcome(limit string) audit.Outcome {
	out := audit.Outcome{Status: audit.StatusOK}
	switch {
	case c.exit.Lost || c.exit.Signal != 0 && c.ctx.Err() != nil:
		out.Status, out.ErrorCode = audit.StatusCancelled, "killed"
	case c.exit.Signal != 0:
		out.Status, out.ErrorCode = audit.StatusFailed, "signal-"+strconv.Itoa(c.exit.Signal)
	case c.exit.Code != 0:
		out.Status, out.ErrorCode = audit.StatusFailed, "exit-"+strconv.Itoa(c.exit.Code)
	}
	if limit != "" {
		out.Checks = []string{"limit:" + limit}
	}
	if !c.exit.Lost {
		out.Process = &audit.ProcessUse{ExitCode: c.exit.Code, Signal: c.exit.Signal, User: c.exit.UserTime, System: c.exit.System, MaxRSS: c.exit.MaxRSS << 10}
	}
	return out
}

// A ProcessState says how a program ended.
type ProcessState struct {
	pid  int
	exit confine.Exit
}

// ExitCode returns the exit code, -1 when the program was killed by a signal.
func (p *ProcessState) ExitCode() int { return p.exit.Code }

// Signal returns the signal that killed the program, 0 for none.
func (p *ProcessState) Signal() syscall.Signal { return syscall.Signal(p.exit.Signal) }

// Exited reports whether the program ended by itself, and not by a signal.
func (p *ProcessState) Exited() bool { return p.exit.Signal == 0 && !p.exit.Lost }

// Success reports whether the program exited with code 0.
func (p *ProcessState) Success() bool { return p.exit.Code == 0 && p.exit.Signal == 0 && !p.exit.Lost }

// Pid returns the process id that the program had inside.
func (p *ProcessState) Pid() int { return p.pid }

// UserTime and SystemTime are the CPU time of the program and of its children
// that it waited for.
func (p *ProcessState) UserTime() time.Duration   { return p.exit.UserTime }
func (p *ProcessState) SystemTime() time.Duration { return p.exit.System }

// MaxRSS is the largest resident memory, in bytes.
func (p *ProcessState) MaxRSS() int64 { return p.exit.MaxRSS << 10 }

func (p *ProcessState) String() string {
	if p.exit.Signal != 0 {
		return "signal: " + p.Signal().String()
	}
	return "exit status " + strconv.Itoa(p.exit.Code)
}

// An ExitError is a program that ran and failed.
type ExitError struct {
	*ProcessState
	// Stderr is the beginning of standard error, when [Cmd.Output] collected it.
	Stderr []byte
}

func (e *ExitError) Error() string { return e.ProcessState.String() }
