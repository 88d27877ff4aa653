package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// This file is how the host's process and the one that plays the night talk: lines
// of JSON on the host's standard streams.

// A word is one line of the host's: an answer to a command, or, with Ended, that
// an agent's session is gone.
type word struct {
	Error string            `json:"error,omitempty"`
	Key   string            `json:"key,omitempty"`
	Paths map[string]string `json:"paths,omitempty"` // workspaces, by agent
	Wall  []string          `json:"wall,omitempty"`
	Said  map[string]string `json:"said,omitempty"`
	Ended string            `json:"ended,omitempty"`
	Cause string            `json:"cause,omitempty"`
}

// hostMain is the main function of the host's process. It ends with its input.
func hostMain(config string) (err error) {
	ctx := context.Background()
	var cfg hostConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(w word) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(os.Stdout).Encode(w) // nobody is left to hear it
	}
	h, err := newHost(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(h.log)) }()
	ready := word{Key: h.log.VerifierKey(), Paths: map[string]string{}}
	names := agentNames
	if cfg.Idle {
		names = nil
	}
	for _, name := range names {
		if err := h.start(ctx, name, func(cause error) { say(word{Ended: name, Cause: fmt.Sprint(cause)}) }); err != nil {
			return err
		}
		box := h.boxes[name]
		ready.Paths[name], ready.Wall = box.Workspace(), nil
		for _, layer := range box.Report().Layers {
			ready.Wall = append(ready.Wall, string(layer))
		}
	}
	say(ready)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var answer word
		if err := h.obey(ctx, lines.Text(), &answer); err != nil {
			answer.Error = err.Error()
		}
		say(answer)
	}
	return nil
}

func (h *host) obey(ctx context.Context, line string, answer *word) error {
	verb, arg, _ := strings.Cut(line, " ")
	switch verb {
	case "reload":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		return h.reload(ctx, n)
	case "attempt":
		answer.Said = h.attempt(ctx, arg)
		return nil
	case "revoke": // where there is no database, and so no command for it
		return h.registry.Revoke(ctx, arg, audit.Change{By: operator, Reason: incident})
	}
	return fmt.Errorf("%q is no command", line)
}

// A machine is the host's process, as seen by the one that started it.
type machine struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers chan word
	ended   chan word // one for each session that ended
	stderr  tail
}

// boot starts the host's process, which is a part of this binary and has a folder,
// and waits until it is ready.
func boot(ctx context.Context, part string, cfg any, dir string) (*machine, word, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, word{}, err
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, word{}, err
	}
	// What the host leaves in its temporary folder when its power goes is ours to
	// take away.
	temp := filepath.Join(dir, "tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, word{}, err
	}
	m := &machine{cmd: exec.Command(self, part, string(text)), answers: make(chan word, 1), ended: make(chan word, len(agentNames))}
	m.cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	m.cmd.Stderr = &m.stderr
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		return nil, word{}, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, word{}, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, word{}, err
	}
	go func() {
		defer close(m.answers)
		for dec := json.NewDecoder(out); ; {
			var w word
			if dec.Decode(&w) != nil {
				return // the host has ended
			}
			if w.Ended != "" {
				m.ended <- w
			} else {
				m.answers <- w
			}
		}
	}()
	ready, err := m.hear(ctx)
	if err != nil {
		return nil, word{}, errors.Join(err, m.cutPower())
	}
	return m, ready, nil
}

// ask has the host do something and returns its answer.
func (m *machine) ask(ctx context.Context, command string) (word, error) {
	if _, err := io.WriteString(m.stdin, command+"\n"); err != nil {
		return word{}, err
	}
	return m.hear(ctx)
}

func (m *machine) hear(ctx context.Context) (w word, err error) {
	ok := true
	select {
	case w, ok = <-m.answers:
	case <-time.After(patience):
		err = errors.New("it does not answer")
	case <-ctx.Done():
		err = ctx.Err()
	}
	switch {
	case !ok:
		err = errors.New("it has ended")
	case w.Error != "":
		err = errors.New(w.Error)
	}
	if err != nil {
		err = fmt.Errorf("the host: %w\n%s", err, m.stderr.String())
	}
	return w, err
}

// cutPower kills the host's process, which cannot do anything about it.
func (m *machine) cutPower() error {
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := m.cmd.Wait()
	if status, ok := m.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		return fmt.Errorf("the host ended by itself: %w\n%s", err, m.stderr.String())
	}
	return nil
}

// shutDown has the host end by itself.
func (m *machine) shutDown() error {
	err := errors.Join(m.stdin.Close(), m.cmd.Wait())
	if err != nil {
		err = fmt.Errorf("the host: %w\n%s", err, m.stderr.String())
	}
	return err
}

// A tail keeps the last words of a process.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-8<<10):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
