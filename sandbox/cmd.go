package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
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
	// Cancel is called when the context of the command ends before the program
	// does; nil means Kill.
	Cancel func() error
	// WaitDelay bounds how long Wait goes on waiting for the pipes of Stdin,
	// Stdout and Stderr once the program has ended, and how long a program has to
	// end by itself once Cancel was called. Zero means no bound for the first, as
	// in exec.Cmd, and a second for both when the context has ended.
	WaitDelay time.Duration
	// EndsSession closes the session when the program could not be started, and
	// before Wait returns: for a session that is there for this program alone, such
	// as that of a server behind a gateway.
	EndsSession bool
	// ProcessState is set once Wait has returned.
	ProcessState *ProcessState

	s      *Session
	ctx    context.Context
	proc   *confine.Process
	ended  chan struct{}
	exit   confine.Exit
	endErr error // of the record of the outcome

	slave    *os.File // the terminal that StartPty made
	pipes    pipes
	waited   bool
	stopKill func() bool
}

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
// was started: [ErrDenied], [ErrNotFound], [ErrEnded], that of the context or the
// system's.
func (c *Cmd) Start() error {
	if c.proc != nil || c.ended != nil {
		return errors.New("sandbox: the command was started already")
	}
	c.ended, c.pipes.late = make(chan struct{}), make(chan struct{})
	if err := c.start(); err != nil {
		c.pipes.close()
		closeFiles(c.pipes.child)
		return c.endSession(fmt.Errorf("sandbox: command %s: %w", c.Path, err))
	}
	closeFiles(c.pipes.child)
	c.pipes.copy()
	c.stopKill = context.AfterFunc(c.ctx, c.cancel)
	return nil
}

// defaultDelay stands for a WaitDelay of zero once the context has ended.
const defaultDelay = time.Second

// cancel ends the program, by force if need be, and what holds its pipes loses
// them: a process that left the group may live on.
func (c *Cmd) cancel() {
	delay := c.WaitDelay
	if delay <= 0 {
		delay = defaultDelay
	}
	end := c.Cancel
	if end == nil {
		end = c.Kill
	}
	_ = end()
	force := time.AfterFunc(delay, func() { _ = c.Kill() })
	<-c.ended
	force.Stop()
	c.pipes.giveUp(delay)
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
	// Close waits for this, so it ends with the session.
	ctx, cancel := context.WithCancelCause(c.ctx)
	stop := context.AfterFunc(c.s.ctx, func() { cancel(ErrEnded) })
	call, decision, err := c.s.permit(ctx, c)
	stop()
	cancel(nil)
	if err != nil {
		c.s.commands.Done()
		return err
	}
	c.proc, err = c.s.box.Exec(confine.Exec{Path: c.Path, Args: c.Args, Dir: c.Dir, Env: c.env(), Terminal: c.slave != nil, Done: c.ctx.Done()}, files)
	if err != nil {
		defer c.s.commands.Done()
		if errors.Is(err, confine.ErrAbandoned) {
			decision.Settle(governance.Result{})
			end := call.End(context.WithoutCancel(c.ctx), audit.Outcome{Status: audit.StatusCancelled, ErrorCode: "not-started"})
			return errors.Join(context.Cause(c.ctx), end)
		}
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
	c.s.tally.started()
	go func() {
		defer c.s.commands.Done()
		c.exit = c.proc.Wait()
		out := c.outcome(c.s.tally.ended(c.exit, c.s.oomKills(c.exit)))
		c.endErr = call.End(context.WithoutCancel(c.ctx), out)
		decision.Settle(governance.ResultOf(out))
		close(c.ended)
		if c.WaitDelay > 0 {
			c.pipes.giveUp(c.WaitDelay)
		}
	}()
	return nil
}

// Wait waits for the program to end and for what it wrote to be copied. A
// program that fails is an [*ExitError]; one that was killed because its
// context was cancelled is the context's error. Like exec.Cmd's, it waits as
// long as any process holds the pipes that were given to Stdout and Stderr,
// within the bounds of WaitDelay; when those are all that was wrong, its error
// is [exec.ErrWaitDelay].
func (c *Cmd) Wait() error {
	if c.proc == nil {
		return errors.New("sandbox: the command was not started")
	}
	if c.waited {
		return errors.New("sandbox: Wait was called already")
	}
	c.waited = true
	return c.endSession(c.wait())
}

// endSession closes the session, if it is there for this program alone, and
// returns how the program ended together with what that came to.
func (c *Cmd) endSession(err error) error {
	if !c.EndsSession || c.s == nil {
		return err
	}
	if end := c.s.Close(); end != nil {
		return errors.Join(err, end)
	}
	return err
}

func (c *Cmd) wait() error {
	<-c.ended
	copyErr := c.pipes.wait()
	c.stopKill()
	c.pipes.close()
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

// String returns the program and its arguments, for people.
func (c *Cmd) String() string {
	return strings.Join(append([]string{c.Path}, c.Args[min(1, len(c.Args)):]...), " ")
}

// Environ returns the environment that the program has: what the session and
// its policy give, and Env.
func (c *Cmd) Environ() []string {
	if c.s == nil {
		return slices.Clone(c.Env)
	}
	var out []string
	at := map[string]int{}
	for _, kv := range append(c.s.environment(), c.env()...) {
		k, _, ok := strings.Cut(kv, "=")
		if i, seen := at[k]; seen {
			out[i] = kv
		} else if ok && k != "" {
			at[k] = len(out)
			out = append(out, kv)
		}
	}
	return out
}

// env returns what comes after the session's own environment.
func (c *Cmd) env() []string {
	if c.slave != nil && c.s.policy.Environment["TERM"] == "" {
		return append([]string{"TERM=xterm-256color"}, c.Env...)
	}
	return c.Env
}
