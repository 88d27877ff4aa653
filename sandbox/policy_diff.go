package sandbox

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An Effect says what a change does to what is allowed.
type Effect string

const (
	Wider    Effect = "wider"    // more is allowed
	Narrower Effect = "narrower" // less is allowed
	Other    Effect = "other"    // both, neither, or it cannot be told from the two policies alone
)

// A PolicyChange is one difference between two policies, in words for a person.
type PolicyChange struct {
	// Field is the part that differs, such as "filesystem.read_only", and for
	// rules "network.allow".
	Field  string
	Effect Effect
	Text   string
}

func (c PolicyChange) String() string {
	return fmt.Sprintf("%s: %s: %s", c.Effect, c.Field, c.Text)
}

// Diff returns how the policy next differs from old, part by part, in a fixed
// order; nil when both allow the same. It compares words: that what is called
// wider is also in use is not said, and what it cannot judge is [Other].
func Diff(old, next *Policy) []PolicyChange {
	d := &differ{}
	a, b := old.normal(), next.normal()
	d.files(a.Filesystem, b.Filesystem)
	d.process(a.Process, b.Process)
	for _, name := range slices.Sorted(maps.Keys(names(a.Environment, b.Environment))) {
		was, had := a.Environment[name]
		is, has := b.Environment[name]
		if was != is || had != has {
			d.add("environment", Other, "%s %s", name, map[[2]bool]string{{true, true}: "has another value", {false, true}: "is set", {true, false}: "is not set any more"}[[2]bool{had, has}])
		}
	}
	d.rules(a.rules(), b.rules())
	d.list("devices", a.Devices, b.Devices, Wider, "is shown")
	if d.changes == nil && a.Hash() != b.Hash() && !sameRules(a, b) {
		d.add("policy", Other, "it differs in a part that is not described")
	}
	return d.changes
}

// sameRules reports whether policies differ in how they write their rules only.
func sameRules(a, b *Policy) bool {
	full := func(p *Policy) string {
		q := *p
		q.Network = Network{Allow: p.rules()}
		q.Inference, q.Services = nil, nil
		return q.Hash()
	}
	return full(a) == full(b)
}

type differ struct{ changes []PolicyChange }

func (d *differ) add(field string, e Effect, format string, args ...any) {
	d.changes = append(d.changes, PolicyChange{Field: field, Effect: e, Text: fmt.Sprintf(format, args...)})
}

// list compares two sets; more is the effect of an entry that is added.
func (d *differ) list(field string, old, next []string, more Effect, verb string) {
	less := Narrower
	if more == Narrower {
		less = Wider
	}
	for _, v := range next {
		if !slices.Contains(old, v) {
			d.add(field, more, "%s %s", v, verb)
		}
	}
	for _, v := range old {
		if !slices.Contains(next, v) {
			d.add(field, less, "%s %s no more", v, verb)
		}
	}
}

func (d *differ) files(a, b Filesystem) {
	shown := func(f Filesystem) []string {
		if f.ReadOnly == nil {
			return SystemPaths()
		}
		return f.ReadOnly
	}
	// A path that moves from one list to the other is one change.
	for _, p := range b.ReadWrite {
		if !slices.Contains(a.ReadWrite, p) {
			d.add("filesystem.read_write", Wider, "%s can be changed", p)
		}
	}
	for _, p := range a.ReadWrite {
		switch {
		case slices.Contains(b.ReadWrite, p):
		case slices.Contains(shown(b), p):
			d.add("filesystem.read_write", Narrower, "%s can only be read", p)
		default:
			d.add("filesystem.read_write", Narrower, "%s is not listed any more", p)
		}
	}
	all := func(f Filesystem) []string { return set(append(slices.Clone(shown(f)), f.ReadWrite...)) }
	for _, p := range shown(b) {
		switch {
		case slices.Contains(all(a), p):
		case a.writable(p): // a read-only file inside a writable folder
			d.add("filesystem.read_only", Narrower, "%s can only be read", p)
		default:
			d.add("filesystem.read_only", Wider, "%s can be read", p)
		}
	}
	for _, p := range shown(a) {
		switch {
		case slices.Contains(all(b), p):
		case b.writable(p):
			d.add("filesystem.read_only", Wider, "%s can be changed, as it lies in a writable folder", p)
		default:
			d.add("filesystem.read_only", Narrower, "%s is not listed any more", p)
		}
	}
	if (a.Protect == nil) != (b.Protect == nil) {
		d.add("filesystem.protect", Other, "the list is %s", map[bool]string{true: "the default one", false: "written out"}[b.Protect == nil])
	} else {
		d.list("filesystem.protect", a.Protect, b.Protect, Narrower, "is protected")
	}
	d.number("filesystem.tmp_size", a.TmpSize, b.TmpSize)
}

// number compares limits, of which zero is none.
func (d *differ) number(field string, old, next int64) {
	if old == next {
		return
	}
	say := func(n int64) string {
		if n == 0 {
			return "no limit"
		}
		return fmt.Sprint(n)
	}
	effect := Narrower
	if next == 0 || old != 0 && next > old {
		effect = Wider
	}
	d.add(field, effect, "from %s to %s", say(old), say(next))
}

func (d *differ) process(a, b Process) {
	for _, n := range []struct {
		name      string
		old, next int64
	}{
		{"max_processes", a.MaxProcesses, b.MaxProcesses}, {"max_open_files", a.MaxOpenFiles, b.MaxOpenFiles},
		{"max_file_size", a.MaxFileSize, b.MaxFileSize}, {"max_memory", a.MaxMemory, b.MaxMemory},
		{"max_total_memory", a.MaxTotalMemory, b.MaxTotalMemory}, {"max_cpu", a.MaxCPU, b.MaxCPU},
	} {
		d.number("process."+n.name, n.old, n.next)
	}
	if a.Exec != b.Exec {
		d.add("process.exec", map[bool]Effect{true: Narrower, false: Wider}[b.Exec == ExecStrict], "from %s to %s", cmp.Or(a.Exec, "any"), cmp.Or(b.Exec, "any"))
	}
	d.programs("process.programs", "", a.Programs, b.Programs)
}

// programs compares lists, of which nil is any program.
func (d *differ) programs(field, prefix string, old, next []Program) {
	switch {
	case old == nil && next == nil:
	case old == nil:
		d.add(field, Narrower, "%sonly %s", prefix, programList(next))
	case next == nil:
		d.add(field, Wider, "%sany program", prefix)
	default:
		for _, p := range next {
			if !slices.Contains(old, p) {
				d.add(field, Wider, "%s%s", prefix, programList([]Program{p}))
			}
		}
		for _, p := range old {
			if !slices.Contains(next, p) {
				d.add(field, Narrower, "%s%s no more", prefix, programList([]Program{p}))
			}
		}
	}
}

func names[V any](a, b map[string]V) map[string]bool {
	all := make(map[string]bool)
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return all
}

func quoted(list []HTTPRule) string {
	var parts []string
	for _, h := range list {
		methods := "any method"
		if h.Methods != nil {
			methods = strings.Join(h.Methods, ", ")
		}
		parts = append(parts, fmt.Sprintf("%s of %s", methods, cmp.Or(h.Path, "any path")))
	}
	return strings.Join(parts, "; ")
}
