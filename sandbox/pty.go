package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// A WindowSize is the size of a terminal in characters and, where anybody asks,
// in pixels.
type WindowSize struct {
	Rows, Cols    uint16
	Width, Height uint16 // in pixels; may be zero
}

// A Pty is the host's side of a terminal that a program has: what is written
// to it are the keys that are pressed, control characters among them, and what
// is read from it is what the screen would show. Its methods may be called
// concurrently.
type Pty struct{ file *os.File }

// StartPty starts the program with a terminal of its own, as a login would: it
// leads a session that the terminal controls, so that Ctrl-C, job control and
// window sizes work. Stdin must be nil; Stdout and Stderr are the terminal
// unless they are set. A zero size is 24 by 80. TERM is xterm-256color unless
// Env or the policy says otherwise.
//
// The terminal exists in the session only; one of the host is never handed in.
// Close the Pty after Wait, or earlier to hang up.
func (c *Cmd) StartPty(size WindowSize) (*Pty, error) {
	if c.Stdin != nil || c.ended != nil {
		return nil, errors.New("sandbox: Stdin is set already, or the command was started")
	}
	if c.s == nil {
		return nil, errors.New("sandbox: a Cmd is made by Session.Command")
	}
	if size == (WindowSize{}) {
		size = WindowSize{Rows: 24, Cols: 80}
	}
	master, slave, err := c.s.box.Pty()
	if err != nil {
		return nil, fmt.Errorf("sandbox: command %s: %w", c.Path, err)
	}
	p := &Pty{file: master}
	c.pipes.child = append(c.pipes.child, slave)
	if err := p.Resize(size); err != nil {
		master.Close()
		closeFiles(c.pipes.child)
		return nil, err
	}
	for _, to := range []*io.Writer{&c.Stdout, &c.Stderr} {
		if *to == nil {
			*to = slave
		}
	}
	c.Stdin, c.slave = slave, slave
	if err := c.Start(); err != nil {
		master.Close()
		return nil, err
	}
	go func() {
		<-c.ended
		_ = master.SetReadDeadline(time.Now().Add(max(c.WaitDelay, defaultDelay)))
	}()
	return p, nil
}

// Read returns what the program wrote. It is io.EOF when nothing has the
// terminal open any more, and at the latest a second (or WaitDelay) after the
// program's end: a job in the background may hold the terminal for longer.
func (p *Pty) Read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	if errors.Is(err, syscall.EIO) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// Write presses keys. It blocks while the program does not read them.
func (p *Pty) Write(b []byte) (int, error) { return p.file.Write(b) }

// Resize sets the size of the window; programs are told by SIGWINCH.
func (p *Pty) Resize(size WindowSize) error {
	if err := resize(p.file, size); err != nil {
		return fmt.Errorf("sandbox: resize a terminal: %w", err)
	}
	return nil
}

// Close hangs up: what the terminal controls gets SIGHUP.
func (p *Pty) Close() error { return p.file.Close() }
