package sandbox

import (
	"context"
	"io"
	"os"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// SKELETON: signatures other packages rely on; the sandbox builders replace this file.

type Options struct {
	// Engine decides connect and exec besides the policy's own lists; nil: the policy's lists alone decide.
	Engine *governance.Engine
	// Workspace is the host directory that is /sandbox inside; "" = a new empty one removed by Close.
	Workspace string
	Require   []Layer // nil = all
}

type Layer string

type Session struct{ door *egress.Door }

// Start makes the sandbox. Cancelling ctx ends everything inside.
func Start(ctx context.Context, p *Policy, actor audit.Actor, log audit.Recorder, opts *Options) (*Session, error) {
	panic("skeleton")
}

func (s *Session) Command(ctx context.Context, name string, args ...string) *Cmd { panic("skeleton") }
func (s *Session) Report() Report                                                { panic("skeleton") }
func (s *Session) Workspace() string                                             { panic("skeleton") }
func (s *Session) Done() <-chan struct{}                                         { panic("skeleton") }
func (s *Session) Close() error                                                  { panic("skeleton") }

type Report struct {
	Layers      []Layer
	LandlockABI int
}

// Cmd reads like exec.Cmd.
type Cmd struct {
	Path           string
	Args           []string
	Env            []string // added to what policy gives
	Dir            string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	ExtraFiles     []*os.File
}

func (c *Cmd) Start() error                       { panic("skeleton") }
func (c *Cmd) Wait() error                        { panic("skeleton") }
func (c *Cmd) Run() error                         { panic("skeleton") }
func (c *Cmd) Output() ([]byte, error)            { panic("skeleton") }
func (c *Cmd) StdinPipe() (io.WriteCloser, error) { panic("skeleton") }
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { panic("skeleton") }
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { panic("skeleton") }

// Probe says which layers this kernel and user can have.
func Probe() Capabilities { panic("skeleton") }

type Capabilities struct{ Missing []Layer }
