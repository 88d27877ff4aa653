package main

import (
	"errors"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/sandbox"
)

// A localTerminal is what a person sits at.
type localTerminal struct{ in, out *os.File }

// terminal returns it, if both ends are one.
func terminal(in io.Reader, out io.Writer) (localTerminal, bool) {
	var s localTerminal
	var ok [2]bool
	s.in, ok[0] = in.(*os.File)
	s.out, ok[1] = out.(*os.File)
	return s, ok == [2]bool{true, true} && isTerminal(s.in) && isTerminal(s.out)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// execute runs the program with a terminal of its own, which this one shows.
func (s localTerminal) execute(cmd *sandbox.Cmd) error {
	pty, err := cmd.StartPty(s.size())
	if err != nil {
		return err
	}
	defer pty.Close()
	restore, err := s.raw()
	if err != nil {
		return errors.Join(err, cmd.Kill(), cmd.Wait())
	}
	defer restore()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-resized:
				_ = pty.Resize(s.size())
			case <-done:
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(pty, s.in) }() // ends with this process: nothing ends a read of a terminal
	_, copyErr := io.Copy(s.out, pty)         // to the end of the program
	return errors.Join(cmd.Wait(), copyErr)
}

func (s localTerminal) size() sandbox.WindowSize {
	w, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return sandbox.WindowSize{}
	}
	return sandbox.WindowSize{Rows: w.Row, Cols: w.Col, Width: w.Xpixel, Height: w.Ypixel}
}

// raw hands every key on as it is pressed, until restore is called.
func (s localTerminal) raw() (restore func(), err error) {
	fd := int(s.in.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	now := *was
	now.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	now.Oflag &^= unix.OPOST
	now.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	now.Cflag = now.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }, unix.IoctlSetTermios(fd, unix.TCSETS, &now)
}
