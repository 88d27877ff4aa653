//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A remark is what an agent has noted of one call, or the host of one command.
type remark struct {
	trace, kind  string
	began, ended time.Time
	said         string // "ok", "stopped", or what went wrong
}

func (r remark) agent() int { return numberOf(r.trace) }

// failed reports whether something went wrong with a call.
func (r remark) failed() bool { return r.said != "ok" && r.said != "stopped" }

// numberOf is the number of the agent whose trace it is, or 0, and lifeOf that of
// its life.
func numberOf(trace string) int { return hex(trace, 0, 8) }
func lifeOf(trace string) int   { return hex(trace, 8, 32) >> 32 }

func hex(trace string, from, to int) int {
	if len(trace) != 32 {
		return 0
	}
	n, _ := strconv.ParseUint(trace[from:to], 16, 62)
	return int(n)
}

// Notes are what is noted in the workspaces of all lives that go on.
type notes struct {
	mu     sync.Mutex
	places map[string]map[string]int64 // how far each file of each was read
	all    []remark
	counts map[tally]int
}

// A tally counts the calls of one kind that were answered, or failed.
type tally struct {
	agent  int
	kind   string
	failed bool
}

func newNotes() *notes {
	return &notes{places: map[string]map[string]int64{}, counts: map[tally]int{}}
}

// open reads a workspace from now on, and close does so for the last time and
// removes it.
func (n *notes) open(place string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.places[place] = map[string]int64{"notes": 0, "commands": 0}
}

func (n *notes) close(place string) error {
	if err := n.read(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.places, place)
	return os.RemoveAll(place)
}

// read takes in what has been noted since.
func (n *notes) read() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for place, files := range n.places {
		for name, from := range files {
			read, err := n.readFile(filepath.Join(place, name), from)
			if err != nil {
				return err
			}
			files[name] += read
		}
	}
	return nil
}

func (n *notes) readFile(path string, from int64) (int64, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, from, 1<<40))
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	for line := range strings.Lines(string(text)) {
		words := strings.SplitN(strings.TrimSpace(line), " ", 5)
		if len(words) != 5 {
			return 0, fmt.Errorf("%s: an odd note: %q", path, line)
		}
		r := remark{trace: words[0], kind: words[1], said: words[4]}
		for i, t := range []*time.Time{&r.began, &r.ended} {
			nanos, err := strconv.ParseInt(words[2+i], 10, 64)
			if err != nil {
				return 0, err
			}
			*t = time.Unix(0, nanos)
		}
		n.all = append(n.all, r)
		if r.said != "stopped" {
			n.counts[tally{r.agent(), r.kind, r.failed()}]++
		}
	}
	return int64(len(text)), err
}

// count is how many calls there have been.
func (n *notes) count(t tally) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts[t]
}

// take returns what was noted since it was called last.
func (n *notes) take() []remark {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.all
	n.all = nil
	return all
}
