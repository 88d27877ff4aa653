package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/examples/internal/outside"
	"github.com/twinward-dev/twinward/examples/internal/tell"
)

// killing is what the kill came to, seen from outside. The figures are
// milliseconds from when the command returned; negative ones are before.
type killing struct {
	Took      float64 `json:"took_ms"`            // the command
	LastCall  float64 `json:"last_call_began_ms"` // at a vendor
	LastEnd   float64 `json:"last_call_ended_ms"` // there: streams, too
	Processes float64 `json:"processes_gone_ms"`  // the last of them
	Running   int     `json:"processes"`          // that there were
	Cut       int     `json:"calls_cut"`          // that were under way
	After     int     `json:"calls_begun_after"`  // at a vendor, once the host said that it is over
	Cause     string  `json:"cause"`              // of the session's end, as the host says
}

// memorySeen is what was found in the memory of the agents' processes.
type memorySeen struct {
	Processes int   `json:"processes"`
	Bytes     int64 `json:"bytes"`
	Secrets   int   `json:"secrets"`
	Marked    int   `json:"marked"` // processes in which the search found what is there
}

// sessionOf returns the processes of an agent's session, and the agent among them:
// a child of it that has not become git yet has the same arguments.
func sessionOf(name string) (all []int, agent int, err error) {
	rooms, err := outside.Rooms()
	if err != nil {
		return nil, 0, err
	}
	for _, pids := range rooms {
		parents := map[int]int{}
		for _, pid := range pids {
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // gone: it is not the agent
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			var state string
			var parent int
			_, err := fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
			if err == nil && bytes.HasSuffix(args, []byte("\x00agent\x00"+name+"\x00")) {
				parents[pid] = parent
			}
		}
		for pid, parent := range parents {
			if _, child := parents[parent]; !child {
				return pids, pid, nil
			}
		}
	}
	return nil, 0, fmt.Errorf("%s does not run", name)
}

// searchMemory looks for the vendors' tokens in the agents' memory.
func (n *night) searchMemory() error {
	for _, name := range agentNames {
		_, pid, err := sessionOf(name)
		if err != nil {
			return err
		}
		found, read, err := outside.SearchMemory(pid, n.world.secrets())
		marked, _, again := outside.SearchMemory(pid, []string{name})
		if err := errors.Join(err, again); err != nil {
			return fmt.Errorf("the memory of %s: %w", name, err)
		}
		n.seen.Memory.Processes++
		n.seen.Memory.Bytes += read
		n.seen.Memory.Secrets += found
		n.seen.Memory.Marked += marked
	}
	if m := n.seen.Memory; m.Secrets > 0 || m.Marked != m.Processes {
		n.wrong("the search of memory: %+v", m)
	}
	return nil
}

// kill has the operator end the first agent with the real command, under load.
func (n *night) kill(ctx context.Context) error {
	if err := n.searchMemory(); err != nil {
		return err
	}
	name, other := agentNames[0], agentNames[1]
	mine := func(e entry) bool { return e.agent == name }
	underWay := func() []entry { return n.world.entries(func(e entry) bool { return mine(e) && e.ended.IsZero() }) }
	err := n.world.await(ctx, name+" has a stream, a read and a fetch open", func() bool {
		held := map[string]bool{}
		for _, e := range underWay() {
			held[e.vendor] = held[e.vendor] || e.held
		}
		return held["github"] && held["model"] && held["forge"]
	})
	if err != nil {
		return err
	}
	pids, _, err := sessionOf(name)
	if err != nil {
		return err
	}
	gone := make(chan time.Time, 1)
	go func() { gone <- lastOf(ctx, pids) }()

	how := "with twinward-vault, which is another process"
	if n.opts.db == "" {
		how = "through the host"
	}
	n.begin("kill", "The operator kills %s, %s.", name, how)
	k := &n.seen.Kill
	n.ends[name], k.Running = time.Now(), len(pids)
	if n.opts.db != "" {
		err = n.office.vault(ctx, operator, incident, "", "agents kill", "-db", n.opts.db, name)
	} else {
		_, err = n.machine.ask(ctx, "revoke "+name)
	}
	acknowledged := time.Now()
	if err != nil {
		return err
	}
	var ended word
	select {
	case ended = <-n.machine.ended:
	case <-time.After(patience):
		return fmt.Errorf("%s still runs", name)
	}
	if k.Cause = ended.Cause; ended.Ended != name {
		n.wrong("%s has ended (%s), and %s was killed", ended.Ended, ended.Cause, name)
	}
	since := func(t time.Time) float64 { return math.Round(float64(t.Sub(acknowledged).Microseconds())/100) / 10 }
	k.Took, k.Processes = -since(n.ends[name]), since(<-gone)
	if err := n.world.await(ctx, "nothing of "+name+" is under way", func() bool { return len(underWay()) == 0 }); err != nil {
		return err
	}
	if err := n.work(ctx, 3, other); err != nil { // the other one works on, and gives late requests time to come
		return err
	}
	for i, e := range n.world.entries(mine) {
		if i == 0 || since(e.started) > k.LastCall {
			k.LastCall = since(e.started)
		}
		if i == 0 || since(e.ended) > k.LastEnd {
			k.LastEnd = since(e.ended)
		}
		if e.cut {
			k.Cut++
		}
	}
	before := len(n.world.entries(mine))
	if err := n.knock(ctx, name, "killed"); err != nil {
		return err
	}
	if err := n.work(ctx, 3, other); err != nil {
		return err
	}
	if k.After = len(n.world.entries(mine)) - before; k.After != 0 {
		n.wrong("%d requests of %s reached a vendor after its end", k.After, name)
	}
	if _, _, err := sessionOf(name); err == nil {
		n.wrong("%s runs again", name)
	}
	n.show.Say("  Milliseconds from when the command returned: its last process ended at %+.1f, its last request began at %+.1f and ended at %+.1f; %d were cut.",
		k.Processes, k.LastCall, k.LastEnd, k.Cut)
	return nil
}

// knock has the killed agent try each door once more.
func (n *night) knock(ctx context.Context, name, when string) error {
	answer, err := n.machine.ask(ctx, "attempt "+name)
	if err != nil {
		return err
	}
	for _, door := range []string{"session", "tool", "model", "git"} {
		said := answer.Said[door]
		refused := strings.Contains(said, "revoked") || strings.Contains(said, "403 ") || strings.Contains(said, "may not act any more")
		if !refused {
			n.wrong("the door %s said to %s, which was killed: %q", door, name, said)
		}
		n.steps = append(n.steps, tell.Step{Name: when + ": " + door, Says: name + " tries again", Held: said, Happened: !refused})
	}
	return nil
}

// lastOf waits until none of the processes runs, and returns when that was. One
// that has ended and was not waited for does not run.
func lastOf(ctx context.Context, pids []int) time.Time {
	for ctx.Err() == nil {
		running := false
		for _, pid := range pids {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil {
				state := stat[bytes.LastIndexByte(stat, ')')+2]
				running = running || state != 'Z' && state != 'X'
			} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
				running = true
			}
		}
		if !running {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return time.Now()
}
