package sandbox

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// YAML returns the policy as a file that [LoadPolicy] reads back to the same
// [Policy.Hash]. What is the default is left out.
func (p *Policy) YAML() []byte {
	if p == nil {
		p = &Policy{}
	}
	w := &yamlWriter{}
	w.line(0, "version: 1")
	f := p.Filesystem
	w.section("filesystem", []entry{
		{"read_only", flow(f.ReadOnly), f.ReadOnly != nil},
		{"read_write", flow(f.ReadWrite), len(f.ReadWrite) > 0},
		{"protect", flow(f.Protect), f.Protect != nil},
		{"tmp_size", size(f.TmpSize), f.TmpSize != 0},
	})
	l := p.Process
	w.section("process", []entry{
		{"max_processes", fmt.Sprint(l.MaxProcesses), l.MaxProcesses != 0},
		{"max_open_files", fmt.Sprint(l.MaxOpenFiles), l.MaxOpenFiles != 0},
		{"max_file_size", size(l.MaxFileSize), l.MaxFileSize != 0},
		{"max_memory", size(l.MaxMemory), l.MaxMemory != 0},
		{"max_total_memory", size(l.MaxTotalMemory), l.MaxTotalMemory != 0},
		{"max_cpu", strconv.FormatFloat(float64(l.MaxCPU)/1000, 'f', -1, 64), l.MaxCPU != 0},
		{"exec", string(l.Exec), l.Exec != ""},
		{"programs", programList(l.Programs), l.Programs != nil},
	})
	var env []entry
	for _, k := range slices.Sorted(maps.Keys(p.Environment)) {
		env = append(env, entry{scalar(k), strconv.Quote(p.Environment[k]), true})
	}
	w.section("environment", env)
	if len(p.Network.Allow) > 0 {
		w.line(0, "network:")
		w.line(1, "allow:")
		for _, r := range p.Network.Allow {
			w.rule(r)
		}
	}
	if len(p.Devices) > 0 {
		w.line(0, "devices: "+flow(p.Devices))
	}
	if p.Inference != nil {
		var parts []string
		if p.Inference.Host != "" {
			parts = append(parts, "host: "+scalar(p.Inference.Host))
		}
		if p.Inference.Programs != nil {
			parts = append(parts, "programs: "+programList(p.Inference.Programs))
		}
		w.line(0, "inference: {"+strings.Join(parts, ", ")+"}")
	}
	if len(p.Services) > 0 {
		w.line(0, "services: "+flow(p.Services))
	}
	return []byte(w.String())
}

type yamlWriter struct{ strings.Builder }

func (w *yamlWriter) line(depth int, text string) {
	w.WriteString(strings.Repeat("  ", depth) + text + "\n")
}

// An entry is a key with a value in one line, and whether it is written at all.
type entry struct {
	key, value string
	there      bool
}

func (w *yamlWriter) section(name string, entries []entry) {
	entries = slices.DeleteFunc(entries, func(e entry) bool { return !e.there })
	if len(entries) == 0 {
		return
	}
	w.line(0, name+":")
	for _, e := range entries {
		w.line(1, e.key+": "+e.value)
	}
}

// rule writes one item of network.allow.
func (w *yamlWriter) rule(r Rule) {
	w.line(2, "- host: "+scalar(r.Host))
	for _, e := range []entry{
		{"ports", strings.ReplaceAll(fmt.Sprint(r.Ports), " ", ", "), len(r.Ports) > 0},
		{"private", "true", r.Private},
		{"served", "true", r.Served},
		{"protocol", string(r.Protocol), r.Protocol != ""},
		{"access", string(r.Access), r.Access != ""},
		{"programs", programList(r.Programs), r.Programs != nil},
	} {
		if e.there {
			w.line(3, e.key+": "+e.value)
		}
	}
	w.requests("rules", r.Rules)
	w.requests("deny", r.Deny)
}

func (w *yamlWriter) requests(key string, list []HTTPRule) {
	if len(list) == 0 {
		return
	}
	w.line(3, key+":")
	for _, h := range list {
		var parts []string
		if len(h.Methods) > 0 {
			parts = append(parts, "methods: "+flow(h.Methods))
		}
		if h.Path != "" {
			parts = append(parts, "path: "+strconv.Quote(h.Path))
		}
		w.line(4, "- {"+strings.Join(parts, ", ")+"}")
	}
}

func programList(list []Program) string {
	var parts []string
	for _, p := range list {
		if p.SHA256 == "" {
			parts = append(parts, scalar(p.Path))
		} else {
			parts = append(parts, fmt.Sprintf("{path: %s, sha256: %s}", scalar(p.Path), strconv.Quote(p.SHA256)))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func flow(list []string) string {
	var parts []string
	for _, s := range list {
		parts = append(parts, scalar(s))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// plain is text that no reader of YAML takes for anything else.
var plain = regexp.MustCompile(`^[a-zA-Z/][a-zA-Z0-9/._-]*[a-zA-Z0-9/]$`)

// notPlain are words that some versions of YAML read as something else.
var notPlain = []string{"true", "false", "yes", "no", "on", "off", "null", "nan", "inf"}

func scalar(s string) string {
	if plain.MatchString(s) && !slices.Contains(notPlain, strings.ToLower(s)) {
		return s
	}
	return strconv.Quote(s)
}

func size(n int64) string {
	for shift, unit := range []string{"", "KiB", "MiB", "GiB", "TiB"} {
		if n>>(10*shift)<<(10*shift) == n && (shift == 4 || n>>(10*(shift+1))<<(10*(shift+1)) != n) {
			return fmt.Sprintf("%d%s", n>>(10*shift), unit)
		}
	}
	return fmt.Sprint(n)
}
