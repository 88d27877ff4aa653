package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

// A Cmd is one program in a session. It reads like exec.Cmd: set the fields,
// then call Run, Output, or Start and Wait. A Cmd is used once and by one
// goroutine, except that Signal and Kill may be called from any.
type Cmd struct {
	// Path is the program as seen from inside: a path, or a name that is looked
	// up in the PATH of the command.
	Path string
	// Args are the arguments, beginning with the program's name.
	Args []string
	// Env is added to what the session and its policy give; the last value of a
	// name wins.
	Env []string
	// Dir is the working directory inside; "" means /sandbox.
	Dir string
	// Stdin, Stdout and Stderr work as in exec.Cmd: nil means /dev/null, an
	// *os.File is handed over as it is, anything else is copied through a pipe.
	// Stdout and Stderr may be the same writer.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// ExtraFiles become descriptors 3 and on. A descriptor is what it is: a
	// directory would lead out of the session and is refused, and a socket or
	// file of the host is given away for good.
	ExtraFiles []*os.File
	// ProcessState is set once Wait has returned.
	ProcessState *ProcessState

	s      *Session
	ctx    context.Context
	proc   *confine.Process
	ended  chan struct{}
	exit   confine.Exit
	endErr error // of the record of the outcome

	childFiles  []*os.File // closed once the program has started
	parentFiles []io.Closer
	readers     []*os.File // of what the program writes
	copiers     []func() error
	copyErrs    chan error
	waited      bool
	stopKill    func() bool
}

// pipeGrace is how long output is still read when a command was cancelled and
// has ended, but something that it started goes on holding its pipes.
const pipeGrace = time.Second

// Command returns a command to run in the session. Cancelling ctx kills the
// program and its process group.
//
// Each start is decided by [Options.Engine], when given, as the action "exec",
// and is on record before the program runs; its end is on record before Wait
// returns.
func (s *Session) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Path: name, Args: append([]string{name}, args...), s: s, ctx: ctx}
}

// Start starts the program and does not wait for it. Its error says why nothing
// was started: [ErrDenied], [ErrNotFound], [ErrEnded] or the system's.
func (c *Cmd) Start() error {
	if c.proc != nil || c.ended != nil {
		return errors.New("sandbox: the command was started already")
	}
	c.ended = make(chan struct{})
	if err := c.start(); err != nil {
		for _, f := range c.parentFiles {
			f.Close()
		}
		closeFiles(c.childFiles)
		return fmt.Errorf("sandbox: command %s: %w", c.Path, err)
	}
	closeFiles(c.childFiles)
	c.copyErrs = make(chan error, len(c.copiers))
	for _, f := range c.copiers {
		go func() { c.copyErrs <- f() }()
	}
	c.stopKill = context.AfterFunc(c.ctx, func() {
		_ = c.proc.Signal(syscall.SIGKILL, true)
		<-c.ended
		for _, r := range c.readers { // a process that left the group may hold the other end
			_ = r.SetReadDeadline(time.Now().Add(pipeGrace))
		}
	})
	return nil
}

func (c *Cmd) start() error {
	if c.s == nil || c.ctx == nil {
		return errors.New("a Cmd is made by Session.Command")
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	files, err := c.files()
	if err != nil {
		return err
	}
	if err := c.s.begin(); err != nil {
		return err
	}
	call, decision, err := c.s.permit(c.ctx, c)
	if err != nil {
		c.s.commands.Done()
		return err
	}
	c.proc, err = c.s.box.Exec(confine.Exec{Path: c.Path, Args: c.Args, Dir: c.Dir, Env: c.Env}, files)
	if err != nil {
		defer c.s.commands.Done()
		var ee *confine.ExecError
		if errors.As(err, &ee) {
			err = ee.Err
		}
		if errors.Is(err, syscall.ENOENT) {
			err = fmt.Errorf("%w, or no such directory or interpreter", ErrNotFound)
		}
		decision.Settle(governance.Result{})
		end := call.End(context.WithoutCancel(c.ctx), audit.Outcome{Status: audit.StatusFailed, ErrorCode: "not-started"})
		return errors.Join(err, end)
	}
	go func() {
		defer c.s.commands.Done()
		c.exit = c.proc.Wait()
		out := c.outcome()
		c.endErr = call.End(context.WithoutCancel(c.ctx), out)
		decision.Settle(governance.ResultOf(out))
		close(c.ended)
	}()
	return nil
}

// Wait waits for the program to end and for what it wrote to be copied. A
// program that fails is an [*ExitError]; one that was killed because its
// context was cancelled is the context's error. Like exec.Cmd's, it waits as
// long as any process holds the pipes that were given to Stdout and Stderr, but
// no longer than a second beyond the end of the context.
func (c *Cmd) Wait() error {
	if c.proc == nil {
		return errors.New("sandbox: the command was not started")
	}
	if c.waited {
		return errors.New("sandbox: Wait was called already")
	}
	c.waited = true
	<-c.ended
	var copyErr error
	for range c.copiers {
		if err := <-c.copyErrs; err != nil && copyErr == nil {
			copyErr = err
		}
	}
	c.stopKill()
	for _, f := range c.parentFiles {
		f.Close()
	}
	c.ProcessState = &ProcessState{pid: c.proc.PID, exit: c.exit}
	switch {
	case c.endErr != nil:
		return fmt.Errorf("sandbox: command %s: record the outcome: %w", c.Path, c.endErr)
	case c.ctx.Err() != nil && (copyErr != nil || !c.ProcessState.Success()):
		return fmt.Errorf("sandbox: command %s: %w", c.Path, context.Cause(c.ctx))
	case c.exit.Lost:
		return fmt.Errorf("sandbox: command %s: %w", c.Path, ErrEnded)
	case !c.ProcessState.Success() && copyErr != nil:
		return errors.Join(&ExitError{ProcessState: c.ProcessState}, fmt.Errorf("sandbox: command %s: copy: %w", c.Path, copyErr))
	case !c.ProcessState.Success():
		return &ExitError{ProcessState: c.ProcessState}
	case copyErr != nil:
		return fmt.Errorf("sandbox: command %s: copy: %w", c.Path, copyErr)
	}
	return nil
}

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns what it wrote to standard output, at most
// 64 MiB: a program that writes more is cut off, and the error says so. When
// Stderr is nil, the first 64 KiB of standard error are in the [*ExitError].
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout is set already")
	}
	var out bounded
	var head prefix
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &head
	}
	err := c.Run()
	var ee *ExitError
	if errors.As(err, &ee) {
		ee.Stderr = head.b
	}
	return out.b, err
}

// CombinedOutput runs the program and returns what it wrote to both outputs,
// within the bound of [Cmd.Output].
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("sandbox: Stdout or Stderr is set already")
	}
	var out bounded
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.b, err
}

const maxOutput = 64 << 20

var errOutput = errors.New("the program wrote more than 64 MiB: set Stdout to take its output piece by piece")

// A bounded keeps what is written to it, and fails rather than fill the host's
// memory with what a program of a session says.
type bounded struct{ b []byte }

func (o *bounded) Write(p []byte) (int, error) {
	if len(o.b)+len(p) > maxOutput {
		return 0, errOutput
	}
	o.b = append(o.b, p...)
	return len(p), nil
}

// A prefix keeps the beginning of what is written to it.
type prefix struct{ b []byte }

func (p *prefix) Write(b []byte) (int, error) {
	const limit = 64 << 10
	p.b = append(p.b, b[:min(len(b), limit-len(p.b))]...)
	return len(b), nil
}

// Pid returns the process id inside the session, 0 before Start.
func (c *Cmd) Pid() int {
	if c.proc == nil {
		return 0
	}
	return c.proc.PID
}

// Signal sends a signal to the program. One that has ended gets none.
func (c *Cmd) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok || c.proc == nil {
		return fmt.Errorf("sandbox: command %s: cannot be signalled", c.Path)
	}
	return c.proc.Signal(n, false)
}

// Kill kills the program and all processes of its group.
func (c *Cmd) Kill() error {
	if c.proc == nil {
		return fmt.Errorf("sandbox: command %s: was not started", c.Path)
	}
	return c.proc.Signal(syscall.SIGKILL, true)
}

// StdinPipe returns a pipe to the program's standard input. Wait closes it.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil || c.ended != nil {
		return nil, errors.New("sandbox: Stdin is set already, or the command was started")
	}
	r, w, err := c.pipe()
	if err != nil {
		return nil, err
	}
	c.Stdin = r
	c.childFiles = append(c.childFiles, r)
	once := &onceFile{File: w}
	c.parentFiles = append(c.parentFiles, once)
	return once, nil
}

// StdoutPipe returns a pipe from the program's standard output. Read it to its
// end before Wait, which closes it.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.outPipe(&c.Stdout, "Stdout") }

// StderrPipe returns a pipe from the program's standard error; see StdoutPipe.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.outPipe(&c.Stderr, "Stderr") }

func (c *Cmd) outPipe(to *io.Writer, name string) (io.ReadCloser, error) {
	if *to != nil || c.ended != nil {
		return nil, fmt.Errorf("sandbox: %s is set already, or the command was started", name)
	}
	r, w, err := c.pipe()
	if err != nil {
		return nil, err
	}
	*to = w
	c.childFiles = append(c.childFiles, w)
	c.parentFiles = append(c.parentFiles, r)
	c.readers = append(c.readers, r)
	return r, nil
}

func (c *Cmd) pipe() (r, w *os.File, err error) {
	if c.s == nil {
		return nil, nil, errors.New("sandbox: a Cmd is made by Session.Command")
	}
	return c.s.box.Pipe()
}

// A onceFile may be closed by its user and again by Wait.
type onceFile struct {
	*os.File
	once sync.Once
	err  error
}

func (f *onceFile) Close() error {
	f.once.Do(func() { f.err = f.File.Close() })
	return f.err
}
