//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/sandbox"
)

// A guest is an agent that is at work in a session, and whoever runs commands
// there beside it.
type guest struct {
	box      *sandbox.Session
	life     context.Context
	end      context.CancelFunc
	cmd      *sandbox.Cmd
	stdin    io.Closer
	commands context.CancelFunc
	all      sync.WaitGroup
}

// network is the network part of a session's policy: with the web, or without.
func (h *soakHost) network(web bool) sandbox.Network {
	n := sandbox.Network{Allow: []sandbox.Rule{
		{Host: "inference.local"}, {Host: "tools.local"}, {Host: gitHost, Ports: []uint16{443}, Served: true},
	}}
	if port := []uint16{uint16(h.cfg.Port)}; web {
		n.Allow = append(n.Allow,
			sandbox.Rule{Host: "example.com", Ports: port, Private: true, Protocol: sandbox.ProtocolHTTPS, Access: sandbox.AccessReadOnly},
			sandbox.Rule{Host: "www.example.com", Ports: port, Private: true})
	}
	return n
}

// start starts a life in a session.
func (h *soakHost) start(ctx context.Context, config string) error {
	var life soakLife
	if err := json.Unmarshal([]byte(config), &life); err != nil {
		return err
	}
	name := soakName(life.Number)
	actor, err := h.registry.Actor(name)
	if err != nil {
		return err
	}
	g := &guest{}
	if g.life, g.end, err = h.registry.Context(ctx, actor); err != nil {
		return err
	}
	place := filepath.Join(h.cfg.Dir, "work", fmt.Sprintf("%s-%d", name, life.Life))
	if err := os.MkdirAll(place, 0o700); err != nil {
		return err
	}
	policy := &sandbox.Policy{Environment: sandbox.Environment{"LANG": "C.UTF-8"}, Process: sandbox.Process{MaxProcesses: 512}, Network: h.network(true)}
	g.box, err = sandbox.Start(g.life, policy, actor, h.log, &sandbox.Options{
		Engine: h.engine, Self: true, Workspace: place, Resolver: soakWeb{}, Roots: h.roots(),
	})
	if err != nil {
		g.end()
		return err
	}
	if err := h.settle(g, config); err != nil {
		g.end()
		return errors.Join(err, g.box.Close())
	}
	h.guests[name] = g
	notes, err := os.OpenFile(filepath.Join(place, "commands"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(err, h.stop(name))
	}
	running, stop := context.WithCancel(ctx)
	g.commands = stop
	g.all.Go(func() {
		defer notes.Close()
		n := 0
		repeat(running, notes, task{kind: "command", do: func(ctx context.Context, _ string) error {
			out, err := g.box.Command(ctx, "/bin/sh", "-c", "echo done; : "+h.cfg.Mark).Output()
			if err == nil && string(out) != "done\n" {
				err = fmt.Errorf("it said %q", out)
			}
			return err
		}}, func() string { n++; return fmt.Sprintf("00-%08x%024x-%016x-01", life.Number, life.Life<<32+1<<31+n, n) })
	})
	return nil
}

// settle opens the doors of a session and starts the agent in it.
func (h *soakHost) settle(g *guest, config string) (err error) {
	if err := errors.Join(g.box.Handle("tools.local", h.gateway), g.box.Handle("inference.local", h.router), g.box.Handle(gitHost, h.git)); err != nil {
		return err
	}
	g.cmd = g.box.Command(g.life, sandbox.Self, "soak-agent", config)
	g.cmd.Stdout, g.cmd.Stderr = os.Stderr, os.Stderr
	if g.stdin, err = g.cmd.StdinPipe(); err != nil {
		return err
	}
	return g.cmd.Start()
}

// stop has an agent come to an end, and closes its session.
func (h *soakHost) stop(name string) error {
	g := h.guests[name]
	if g == nil {
		return fmt.Errorf("%s does not run", name)
	}
	g.commands()
	g.all.Wait()
	_ = g.stdin.Close()
	gone := make(chan error, 1)
	go func() { gone <- g.cmd.Wait() }()
	select {
	case err := <-gone:
		return errors.Join(err, h.drop(name))
	case <-time.After(patience):
		return fmt.Errorf("%s does not end", name)
	}
}

// drop lets go of what is left of a session. It is an error if not all of it ends.
func (h *soakHost) drop(name string) error {
	g := h.guests[name]
	delete(h.guests, name)
	err := g.box.Close() // with all that runs in it
	g.commands()
	g.all.Wait()
	_ = g.cmd.Wait() // how it ended is on record
	g.end()
	return err
}
