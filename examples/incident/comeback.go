package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
)

// comeBack has the host come back after the power cut, with no agent in it. Its
// log opens at the torn end, its vault and its policies are there, the agent that
// was killed stays killed, and the other one is served. Where agents are in the
// host's memory, nobody would know of the kill any more.
func (n *night) comeBack(ctx context.Context) (err error) {
	if n.opts.db == "" {
		return nil
	}
	n.begin("comeback", "The power is back, and so is the host. What was killed stays killed.")
	cfg := n.cfg
	cfg.Idle = true
	if n.machine, _, err = boot(ctx, "host", cfg, cfg.Dir); err != nil {
		return err
	}
	if err := n.knock(ctx, agentNames[0], "killed, after the power cut"); err != nil {
		return err
	}
	served, err := n.machine.ask(ctx, "attempt "+agentNames[1])
	if err != nil {
		return err
	}
	for _, door := range []string{"tool", "model", "git"} {
		if said := served.Said[door]; !strings.HasPrefix(said, "200 ") || strings.Contains(said, `"isError":true`) {
			n.wrong("after the power cut the door %s said to %s: %q", door, agentNames[1], said)
		}
	}
	if err := n.machine.shutDown(); err != nil {
		return err
	}
	n.machine = nil
	before, err := n.auditor.verify(ctx, "host", "backup", true)
	if err != nil {
		return err
	}
	if err := n.auditor.take(filepath.Join(n.office.host, "log"), "given"); err != nil {
		return err
	}
	after, err := n.auditor.verify(ctx, "host", "given", true)
	if err == nil && (!after.Verified || after.Records <= before.Records || after.Torn > 0) {
		err = errors.New("the log did not go on where the power cut had left it: " + after.Error)
	}
	return err
}
