package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// Validate returns every [*PolicyError] of the policy, joined, or nil. It looks
// at the policy only; whether the host has the paths is seen by [Start].
func (p *Policy) Validate() error {
	var errs []error
	p.check(func(field, problem, fix string) {
		errs = append(errs, &PolicyError{Field: field, Problem: problem, Fix: fix})
	})
	return errors.Join(errs...)
}

// check reports what is wrong, field by field. The names of fields are those of
// the file, from which [LoadPolicy] finds their place.
func (p *Policy) check(bad func(field, problem, fix string)) {
	if p == nil {
		return
	}
	if p.Version != 0 && p.Version != 1 {
		bad("version", fmt.Sprintf("%d is not a version of this format", p.Version), "write version: 1")
	}
	p.Filesystem.check(bad)
	p.Process.check(bad)
	p.Environment.check(bad)
	p.Network.check(bad)
}

// reserved are folders that the session makes itself, or that would hand it
// control over the host.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/sandbox"}

func (f *Filesystem) check(bad func(field, problem, fix string)) {
	if len(f.ReadOnly)+len(f.ReadWrite) > maxPaths {
		bad("filesystem", fmt.Sprintf("%d paths", len(f.ReadOnly)+len(f.ReadWrite)), fmt.Sprintf("list at most %d; a folder stands for all that is in it", maxPaths))
	}
	seen := make(map[string]string)
	for _, l := range []struct {
		name  string
		paths []string
	}{{"filesystem.read_only", f.ReadOnly}, {"filesystem.read_write", f.ReadWrite}} {
		for i, p := range l.paths {
			field := fmt.Sprintf("%s[%d]", l.name, i)
			if problem, fix := checkPath(p); problem != "" {
				bad(field, fmt.Sprintf("%q %s", p, problem), fix)
				continue
			}
			switch other, dup := seen[p]; {
			case !dup:
				seen[p] = l.name
			case other == l.name:
				bad(field, fmt.Sprintf("%q is listed twice", p), "remove one")
			default:
				bad(field, fmt.Sprintf("%q is both read-only and writable", p), "remove one")
			}
		}
	}
	if f.TmpSize < 0 || f.TmpSize > 0 && f.TmpSize < 1<<16 {
		bad("filesystem.tmp_size", fmt.Sprintf("%d bytes is no size for /tmp", f.TmpSize), "write a size such as 256MiB, at least 64KiB")
	}
}

func checkPath(p string) (problem, fix string) {
	switch {
	case p == "":
		return "is empty", "write an absolute path"
	case len(p) > maxPathLength:
		return "is too long", fmt.Sprintf("paths have at most %d bytes", maxPathLength)
	case strings.ContainsRune(p, 0):
		return "contains a NUL byte", "write a plain path"
	case strings.HasPrefix(p, "~"), strings.Contains(p, "$"):
		return "would need the host's environment", "write the absolute path; nothing is expanded"
	case p[0] != '/':
		return "is relative", "write an absolute path"
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "contains ..", "write where it leads to"
	case path.Clean(p) != p:
		return "is not in its shortest form", fmt.Sprintf("write %q", path.Clean(p))
	case p == "/":
		return "is the whole host", "list the folders that the session needs"
	case p == "/tmp":
		return "is the session's own", "list a folder under the host's /tmp; /tmp itself is writable and empty without being listed"
	}
	for _, r := range reserved {
		if p == r || strings.HasPrefix(p, r+"/") {
			return "lies under " + r + ", which a session makes for itself", "leave it out"
		}
	}
	return "", ""
}

func (l *Process) check(bad func(field, problem, fix string)) {
	for _, v := range []struct {
		name      string
		n         int64
		low, high int64
		fix       string
	}{
		{"max_processes", l.MaxProcesses, 1, 1 << 22, "write a number such as 512"},
		{"max_open_files", l.MaxOpenFiles, 16, 1 << 20, "write a number such as 4096, at least 16"},
		{"max_file_size", l.MaxFileSize, 1, 1 << 60, "write a size such as 4GiB"},
		{"max_memory", l.MaxMemory, minMemory, 1 << 60, "write a size such as 8GiB, at least 256MiB, or leave it out"},
	} {
		if v.n != 0 && (v.n < v.low || v.n > v.high) {
			bad("process."+v.name, fmt.Sprintf("%d is out of bounds", v.n), v.fix)
		}
	}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

func (e Environment) check(bad func(field, problem, fix string)) {
	if len(e) > maxVariables {
		bad("environment", fmt.Sprintf("%d variables", len(e)), fmt.Sprintf("list at most %d", maxVariables))
	}
	for _, name := range slices.Sorted(maps.Keys(e)) {
		field, v := "environment."+name, e[name]
		switch {
		case !variableName.MatchString(name):
			bad(field, fmt.Sprintf("%q is not a variable's name", name), "use letters, digits and _")
		case strings.HasPrefix(name, "LD_"):
			bad(field, "variables of the dynamic linker change what programs are", "leave it out")
		case len(v) > maxValue || strings.ContainsRune(v, 0):
			bad(field, "its value is too long or contains a NUL byte", fmt.Sprintf("write text of at most %d KiB", maxValue>>10))
		case strings.Contains(v, "${"):
			bad(field, "nothing is taken from the host's environment", "write the value itself; a secret does not belong inside, serve its API with Session.Handle instead")
		}
	}
}

func (n *Network) check(bad func(field, problem, fix string)) {
	if len(n.Allow) > maxRules {
		bad("network.allow", fmt.Sprintf("%d rules", len(n.Allow)), fmt.Sprintf("list at most %d", maxRules))
		return
	}
	all := make(map[uint16]bool)
	for i, r := range n.Allow {
		field := fmt.Sprintf("network.allow[%d]", i)
		r.check(field, bad)
		for _, p := range r.Ports {
			all[p] = true
		}
	}
	if len(all) > maxAllPorts {
		bad("network.allow", fmt.Sprintf("%d different ports", len(all)), fmt.Sprintf("allow at most %d: each is a listener inside", maxAllPorts))
	}
}

func (r *Rule) check(field string, bad func(field, problem, fix string)) {
	host := field + ".host"
	switch p, err := egress.ParsePattern(r.Host); {
	case r.Host == "":
		bad(host, "it is missing", "write the name of a host")
	case strings.Contains(r.Host, "/"):
		bad(host, fmt.Sprintf("%q is a URL or has a path", r.Host), "write the host's name only")
	case strings.Count(r.Host, ":") == 1:
		name, port, _ := strings.Cut(r.Host, ":")
		bad(host, fmt.Sprintf("%q has a port", r.Host), fmt.Sprintf("write host: %q and ports: [%s]", name, port))
	case err != nil:
		bad(host, fmt.Sprintf("%q: %v", r.Host, err), "write a name such as api.example.com, or *.example.com; addresses are not reachable, names are")
	case strings.HasSuffix(r.Host, "."):
		bad(host, fmt.Sprintf("%q ends with a dot", r.Host), "write it without")
	case p.Match("localhost") || strings.HasSuffix(p.String(), ".localhost"):
		bad(host, "localhost is the session itself", "give the host's service a name and serve it with Session.Handle")
	case r.Private && r.Served:
		bad(field+".private", "a name that is served is never dialled", "write private or served, not both")
	}
	if len(r.Ports) > maxPorts {
		bad(field+".ports", fmt.Sprintf("%d ports", len(r.Ports)), fmt.Sprintf("list at most %d", maxPorts))
	}
	for i, p := range r.Ports {
		at := fmt.Sprintf("%s.ports[%d]", field, i)
		switch {
		case p == 0:
			bad(at, "0 is not a port", "write 1 to 65535")
		case p == 53:
			bad(at, "port 53 is the session's own DNS", "leave it out; names are resolved for every rule")
		case r.Served && p != 443 && p != 80:
			bad(at, fmt.Sprintf("%d is not served", p), "names are served on 443 (TLS) and 80 (plain HTTP)")
		}
	}
}
