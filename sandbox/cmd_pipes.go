package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// pipes are what connects a program with the host: pipes, and the goroutines
// that copy between them and the command's readers and writers.
type pipes struct {
	child   []*os.File // closed once the program has started
	parent  []io.Closer
	readers []*os.File // of what the program writes

	feed     func() error // copies to the program
	drain    []func() error
	fed      chan error
	drained  chan error
	late     chan struct{} // closed when nobody waits for the pipes any more
	lateOnce sync.Once
}

// copy starts the goroutines.
func (p *pipes) copy() {
	p.fed, p.drained = make(chan error, 1), make(chan error, len(p.drain))
	if p.feed != nil {
		go func() { p.fed <- p.feed() }()
	}
	for _, f := range p.drain {
		go func() { p.drained <- f() }()
	}
}

// giveUp lets nobody wait longer than delay from now.
func (p *pipes) giveUp(delay time.Duration) {
	until := time.Now().Add(delay)
	for _, r := range p.readers {
		_ = r.SetReadDeadline(until)
	}
	time.AfterFunc(delay, func() { p.lateOnce.Do(func() { close(p.late) }) })
}

// wait returns when everything is copied or nobody waits for it any more, and
// the first error of copying. Writers are not used after that, but the reader
// that Stdin is may hold a goroutine until it gives something.
func (p *pipes) wait() error {
	var first error
	keep := func(err error) {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = exec.ErrWaitDelay
		}
		if first == nil {
			first = err
		}
	}
	for range p.drain {
		keep(<-p.drained)
	}
	if p.feed != nil {
		select {
		case err := <-p.fed:
			keep(err)
		case <-p.late:
			keep(exec.ErrWaitDelay)
		}
	}
	return first
}

// close closes the host's ends.
func (p *pipes) close() {
	for _, f := range p.parent {
		f.Close()
	}
}

func (c *Cmd) input() (*os.File, error) {
	if c.Stdin == nil {
		return nil, nil
	}
	if f, ok := c.Stdin.(*os.File); ok {
		return f, nil
	}
	r, w, err := c.s.box.Pipe()
	if err != nil {
		return nil, err
	}
	c.pipes.child = append(c.pipes.child, r)
	once := &onceFile{File: w}
	c.pipes.parent = append(c.pipes.parent, once)
	c.pipes.feed = func() error {
		_, err := io.Copy(w, c.Stdin)
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
			err = nil // the program did not want it all
		}
		return errors.Join(err, once.Close())
	}
	return r, nil
}

// output returns what the program writes to. A terminal of the host is written
// by the host: programs inside would read it, too.
func (c *Cmd) output(to io.Writer) (*os.File, error) {
	if to == nil {
		return nil, nil
	}
	if f, ok := to.(*os.File); ok && (f == c.slave || !isTerminal(f)) {
		return f, nil
	}
	r, w, err := c.s.box.Pipe()
	if err != nil {
		return nil, err
	}
	c.pipes.child = append(c.pipes.child, w)
	c.pipes.parent = append(c.pipes.parent, r)
	c.pipes.readers = append(c.pipes.readers, r)
	c.pipes.drain = append(c.pipes.drain, func() error {
		_, err := io.Copy(to, r)
		r.Close() // a program that goes on writing gets SIGPIPE
		return err
	})
	return w, nil
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
	c.pipes.child = append(c.pipes.child, r)
	once := &onceFile{File: w}
	c.pipes.parent = append(c.pipes.parent, once)
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
	c.pipes.child = append(c.pipes.child, w)
	c.pipes.parent = append(c.pipes.parent, r)
	c.pipes.readers = append(c.pipes.readers, r)
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

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
