package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

// A Report is what is known about a session: what is in force, as init found it
// from inside before anything ran, and what has happened since. Its JSON keeps
// its names.
type Report struct {
	Session string `json:"session"` // as in the actor
	Agent   string `json:"agent"`
	// Launcher is the one that started it.
	Launcher string `json:"launcher"`
	// Layers are those that are in force, outermost first.
	Layers []Layer `json:"layers"`
	// LandlockABI is the version of Landlock in force, 0 for none.
	LandlockABI int `json:"landlock_abi"`
	// Tier is [Options.Tier]; it says what the session is without.
	Tier Tier `json:"tier,omitempty"`
	// Status holds what /proc/<pid>/status says of privileges for the thread
	// that every command comes from: NoNewPrivs, CapEff, CapBnd, Seccomp and so on.
	Status map[string]string `json:"status"`
	// UID is the user that the session's processes have outside; never 0.
	UID int `json:"uid"`
	// PolicyHash is that of the policy in force now; see [Session.SetNetwork].
	PolicyHash string `json:"policy_hash"`
	// Protected are the places of the workspace that are read-only inside.
	Protected []string `json:"protected,omitempty"`
	// Steps are those of Start, in order.
	Steps []Step `json:"steps"`

	Ended bool `json:"ended"`
	// Commands counts those that were let start, Running those that have not ended.
	Commands int `json:"commands"`
	Running  int `json:"running"`
	// UserTime and SystemTime are the CPU time of the commands that have ended and
	// of what they waited for, and MaxRSS is the largest of them, in bytes.
	UserTime   time.Duration `json:"user_ns"`
	SystemTime time.Duration `json:"system_ns"`
	MaxRSS     int64         `json:"max_rss"`
	// Denials are those on record.
	Denials []Denial `json:"denials,omitempty"`
	// Unseen says why the denials of a layer are not among them.
	Unseen map[Layer]string `json:"unseen,omitempty"`
	// Limits are those that were met, as far as the kernel tells. Those of one
	// process (max_memory, max_open_files) it tells to the process only, and so it
	// does with max_processes where the session has no control group.
	Limits []LimitHit `json:"limits,omitempty"`
	// Group is what all processes together have used, also those that nobody waited
	// for. It is nil without a control group: see [Process.MaxTotalMemory].
	Group *GroupUse `json:"group,omitempty"`
}

// A GroupUse is what the kernel has counted for all processes of a session.
type GroupUse struct {
	CPU        time.Duration `json:"cpu_ns"`      // user and system
	MemoryPeak uint64        `json:"memory_peak"` // in bytes
	// Throttled counts periods in which the session had to wait for a processor.
	Throttled uint64 `json:"throttled"`
}

// A Step is one step of Start and how long it took.
type Step struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// A Denial is one kind of act that was refused.
type Denial struct {
	// Action is what was tried: "connect", "exec" or a call that the kernel refused.
	Action string `json:"action"`
	// Reason is that of the decision, or the layer that stopped it.
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// A LimitHit is a limit of the policy that was met: by programs that it ended or,
// of max_processes, by attempts to start one more.
type LimitHit struct {
	Limit string `json:"limit"` // as in the policy: "max_file_size"
	Count uint64 `json:"count"`
}

// Report returns what is known now. It can be called during the life of a
// session and after it.
func (s *Session) Report() Report {
	r := s.box.Report()
	out := Report{
		Session: s.actor.Session, Agent: s.actor.Agent, Launcher: cmp.Or(string(s.opts.Launcher), string(LauncherReexec)), PolicyHash: s.policyHash(),
		Layers: slices.Clone(r.Layers), LandlockABI: r.LandlockABI, Tier: r.Tier, Status: r.Status, UID: r.UID, Unseen: r.Unseen, Steps: slices.Clone(s.steps), Protected: slices.Clone(s.protected),
	}
	s.mu.Lock()
	out.Ended, out.Commands = s.ending, s.ran
	s.mu.Unlock()
	s.tally.report(&out)
	if use, ok := s.box.Usage(); ok {
		out.Group = &GroupUse{CPU: use.CPU, MemoryPeak: use.MemoryPeak, Throttled: use.Throttled}
		for limit, n := range map[string]uint64{"max_total_memory": use.OOMKills, "max_processes": use.Refused} {
			if n > 0 {
				out.Limits = append(out.Limits, LimitHit{limit, n})
			}
		}
	}
	slices.SortFunc(out.Limits, func(a, b LimitHit) int { return cmp.Compare(a.Limit, b.Limit) })
	return out
}

// String is the report as a table for people.
func (r Report) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	state := "alive"
	if r.Ended {
		state = "ended"
	}
	row("session", "%s of %s, %s, launcher %s, outside uid %d", r.Session, r.Agent, state, r.Launcher, r.UID)
	row("policy", "%s", r.PolicyHash)
	row("layers", "%s", join(r.Layers))
	if r.Tier != TierFull {
		row("tier", "%s", r.Tier)
	}
	row("landlock", "ABI %d", r.LandlockABI)
	if len(r.Protected) > 0 {
		row("protected", "%q", r.Protected)
	}
	var all time.Duration
	steps := make([]string, len(r.Steps))
	for i, s := range r.Steps {
		all += s.Took
		steps[i] = fmt.Sprintf("%s %v", s.Name, s.Took.Round(10*time.Microsecond))
	}
	row("start", "%v: %s", all.Round(10*time.Microsecond), strings.Join(steps, ", "))
	row("used", "%d commands, %d running; CPU %v user, %v system; largest process %d KiB", r.Commands, r.Running,
		r.UserTime.Round(time.Millisecond), r.SystemTime.Round(time.Millisecond), r.MaxRSS>>10)
	for _, d := range r.Denials {
		row("denied", "%d × %s: %s", d.Count, d.Action, d.Reason)
	}
	for _, l := range r.Limits {
		row("limit", "%d × %s", l.Count, l.Limit)
	}
	if g := r.Group; g != nil {
		row("group", "CPU %v, memory at most %d KiB, throttled %d times", g.CPU.Round(time.Millisecond), g.MemoryPeak>>10, g.Throttled)
	}
	return b.String()
}

func join[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, l := range list {
		texts[i] = string(l)
	}
	return strings.Join(texts, ",")
}

// A tally counts what has happened in a session.
type tally struct {
	mu           sync.Mutex
	running      int
	user, system time.Duration
	maxRSS       int64
	denials      map[Denial]uint64 // keys have no count
	limits       map[string]uint64
	oomKills     uint64 // of which a command is known
}

func (t *tally) started() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running++
}

// ended takes in how a command ended and returns the limit that did it, or "".
// oomKills is how many processes were killed for want of memory so far.
func (t *tally) ended(e confine.Exit, oomKills uint64) (limit string) {
	if e.Signal == 25 { // SIGXFSZ of Linux; Windows has no name for it
		limit = "max_file_size"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	t.user += e.UserTime
	t.system += e.System
	t.maxRSS = max(t.maxRSS, e.MaxRSS<<10)
	if oomKills > t.oomKills && syscall.Signal(e.Signal) == syscall.SIGKILL {
		t.oomKills++
		return "max_total_memory" // which the group counts
	}
	if limit != "" {
		if t.limits == nil {
			t.limits = map[string]uint64{}
		}
		t.limits[limit]++
	}
	return limit
}

// oomKills returns how many processes the kernel has killed for want of memory,
// if a command may be one of them.
func (s *Session) oomKills(e confine.Exit) uint64 {
	if syscall.Signal(e.Signal) != syscall.SIGKILL || e.Lost {
		return 0
	}
	use, _ := s.box.Usage()
	return use.OOMKills
}

// maxDenialKinds bounds what is told apart; the agent chooses some of it.
const maxDenialKinds = 1000

func (t *tally) event(e audit.Event) {
	d := Denial{Action: e.Action}
	n := e.Count()
	switch e.Kind {
	case audit.KindDenial:
		if e.Decision != nil {
			d.Reason = e.Decision.Reason
		}
	case audit.KindProbe:
		d.Reason = e.Source
		if more, err := strconv.ParseUint(e.Detail["repeated"], 10, 64); err == nil {
			n = more
		}
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.denials == nil {
		t.denials = map[Denial]uint64{}
	}
	if _, known := t.denials[d]; !known && len(t.denials) >= maxDenialKinds {
		d = Denial{Action: "other"}
	}
	t.denials[d] += n
}

func (t *tally) report(r *Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Running, r.UserTime, r.SystemTime, r.MaxRSS = t.running, t.user, t.system, t.maxRSS
	for d, n := range t.denials {
		d.Count = n
		r.Denials = append(r.Denials, d)
	}
	slices.SortFunc(r.Denials, func(a, b Denial) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Reason, b.Reason))
	})
	for l, n := range t.limits {
		r.Limits = append(r.Limits, LimitHit{l, n})
	}
}

// A countedLog is the session's log, whose denials are counted.
type countedLog struct {
	audit.Recorder
	tally *tally
}

func (l countedLog) Append(ctx context.Context, e audit.Event) error {
	l.tally.event(e)
	return l.Recorder.Append(ctx, e)
}

// A stopwatch measures steps.
type stopwatch struct {
	last  time.Time
	steps []Step
}

func (w *stopwatch) lap(name string) {
	now := time.Now()
	w.steps = append(w.steps, Step{name, now.Sub(w.last)})
	w.last = now
}

func (s *Session) launchEvent() audit.Event {
	r, p := s.Report(), s.policy
	limits := fmt.Sprintf("processes=%d,open_files=%d,file_size=%d,memory=%d,tmp=%d",
		p.Process.MaxProcesses, p.Process.MaxOpenFiles, p.Process.MaxFileSize, p.Process.MaxMemory, p.Filesystem.TmpSize)
	detail := map[string]string{
		audit.DetailPolicyHash: r.PolicyHash, "layers": join(r.Layers), "landlock_abi": strconv.Itoa(r.LandlockABI), "uid": strconv.Itoa(r.UID),
		"launcher": r.Launcher, "limits": limits,
	}
	if s.opts.AllowUngoverned {
		if err := p.checkGoverned(s.opts.Governed); err != nil {
			detail["ungoverned"] = err.Error()[:min(len(err.Error()), maxDetail)]
		}
	}
	if r.Tier != TierFull {
		detail["tier"] = string(r.Tier)
	}
	return audit.Event{
		Kind: audit.KindLaunch, Door: audit.DoorCompute, Action: "launch", Resource: s.resource(), Actor: s.actor, Detail: detail,
	}
}

// exitEvent is the last record of a session.
func (s *Session) exitEvent(why string, kept bool) audit.Event {
	r := s.Report()
	var denials uint64
	for _, d := range r.Denials {
		denials += d.Count
	}
	detail := map[string]string{
		audit.DetailPolicyHash: r.PolicyHash, "why": why, "commands": strconv.Itoa(r.Commands), "denials": strconv.FormatUint(denials, 10),
		"user_ms": strconv.FormatInt(r.UserTime.Milliseconds(), 10), "system_ms": strconv.FormatInt(r.SystemTime.Milliseconds(), 10),
		"max_rss": strconv.FormatInt(r.MaxRSS, 10),
	}
	for _, l := range r.Limits {
		detail["limit:"+l.Limit] = strconv.FormatUint(l.Count, 10)
	}
	if kept {
		detail["workspace"] = s.workspace
	}
	return audit.Event{Kind: audit.KindExit, Door: audit.DoorCompute, Action: "exit", Resource: s.resource(), Actor: s.actor, Detail: detail}
}

// errDied is why a session has ended that nobody ended here.
var errDied = errors.New("the first process of the session was killed")

// whyEnded is a word for the cause of the end.
func whyEnded(cause error) string {
	switch {
	case errors.Is(cause, ErrEnded):
		return "closed"
	case errors.Is(cause, audit.ErrFrozen):
		return "frozen"
	case errors.Is(cause, audit.ErrRevoked):
		return "revoked"
	case errors.Is(cause, errDied):
		return "killed"
	}
	return "cancelled"
}
