package mcpx

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

const (
	// maxSaid bounds the lines of one child that are logged; those after it are
	// read and forgotten.
	maxSaid = 1000
	// maxSaidLine bounds one line, in bytes; a longer one is logged in parts.
	maxSaidLine = 4 << 10
)

// An errorPiper is what *exec.Cmd, and the commands of a sandbox session, have
// besides what a [Command] needs.
type errorPiper interface {
	StderrPipe() (io.ReadCloser, error)
}

// A hearer logs what a child says on its standard error.
type hearer struct {
	logger *slog.Logger
	server string
	// scrubbers know the secrets that are taken out: the child's own, and all of
	// the vault if it says so.
	scrubbers []*credential.Scrubber
}

// pipe returns the standard error of a command that has not started, or nil if
// the host has put it elsewhere or the command has none.
func (h *hearer) pipe(cmd Command) io.Reader {
	p, ok := cmd.(errorPiper)
	if h == nil || !ok {
		return nil
	}
	r, err := p.StderrPipe()
	if err != nil {
		return nil
	}
	var clean io.Reader = r
	for _, s := range h.scrubbers {
		clean = s.Reader(clean)
	}
	return clean
}

// listen logs r line by line until its end, which the returned channel tells.
func (h *hearer) listen(r io.Reader) <-chan struct{} {
	ended := make(chan struct{})
	if r == nil {
		close(ended)
		return ended
	}
	go func() { // ends with the child's standard error, which Wait closes
		defer close(ended)
		lines := bufio.NewReaderSize(r, maxSaidLine)
		for n := 0; ; {
			line, _, err := lines.ReadLine()
			if err != nil {
				return
			}
			if len(line) == 0 {
				continue
			}
			switch n++; {
			case n <= maxSaid:
				h.logger.LogAttrs(context.Background(), slog.LevelInfo, "mcpx: a server says", slog.String("server", h.server), slog.String("text", string(line)))
			case n == maxSaid+1:
				h.logger.LogAttrs(context.Background(), slog.LevelWarn, "mcpx: a server says more than is logged", slog.String("server", h.server))
			}
		}
	}()
	return ended
}

// heard waits until everything was logged, but not for processes that the child
// has left behind.
func heard(ended <-chan struct{}) {
	timer := time.NewTimer(childGrace + childGrace/10)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}
