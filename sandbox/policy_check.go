package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Validate returns every [*PolicyError] of the policy, joined, or nil. It looks
// at the policy only; whether the host has the paths is seen by [Start].
func (p *Policy) Validate() error {
	var errs []error
	p.check(func(field, problem, fix string) {
		errs = append(errs, &PolicyError{Field: field, Problem: problem, Fix: fix})
	}, func(field string) string { return field })
	return errors.Join(errs...)
}

// A report takes one thing that is wrong: where, what, and what to write. The
// names of fields are those of the file, from which [LoadPolicy] finds their
// place.
type report func(field, problem, fix string)

// check reports what is wrong, field by field. where puts into words where
// another field stands.
func (p *Policy) check(bad report, where func(field string) string) {
	if p == nil {
		return
	}
	if p.Version != 0 && p.Version != 1 {
		bad("version", fmt.Sprintf("%d is not a version of this format", p.Version), "write version: 1")
	}
	p.Filesystem.check(bad)
	p.Process.check(bad, &p.Filesystem)
	p.Environment.check(bad)
	p.Network.check(bad, &p.Filesystem)
	checkDevices(p.Devices, bad)
	p.checkServed(bad)
	p.checkOverlaps(bad, where)
}

// reserved are folders that the session makes itself, or that would hand it
// control over the host.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/sandbox"}

// madeFiles are files that every session has of its own; see [Session.files].
var madeFiles = []string{"/etc/passwd", "/etc/group", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", trustFile, caFile}

func (f *Filesystem) check(bad report) {
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
	f.checkProtect(bad)
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
	for _, own := range madeFiles {
		if within(own, p) {
			return "would replace " + own + ", which a session makes for itself", "list the files beneath it that are needed"
		}
	}
	for _, r := range reserved {
		if p == r || strings.HasPrefix(p, r+"/") {
			return "lies under " + r + ", which a session makes for itself", "leave it out"
		}
	}
	return "", ""
}

// within reports whether p is dir or lies under it; both are clean.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir+"/")
}

// writable reports whether programs inside can change what is at p: the longest
// path that holds it decides.
func (f *Filesystem) writable(p string) bool {
	best, write := "", false
	for _, w := range append([]string{"/sandbox", "/tmp"}, f.ReadWrite...) {
		if within(p, w) && len(w) > len(best) {
			best, write = w, true
		}
	}
	for _, r := range f.ReadOnly {
		if within(p, r) && len(r) > len(best) {
			best, write = r, false
		}
	}
	return write
}

// checkProtect reports places that could never be protected.
func (f *Filesystem) checkProtect(bad report) {
	if len(f.Protect) > maxPaths {
		bad("filesystem.protect", fmt.Sprintf("%d paths", len(f.Protect)), fmt.Sprintf("list at most %d", maxPaths))
	}
	seen := make(map[string]bool)
	for i, p := range f.Protect {
		field := fmt.Sprintf("filesystem.protect[%d]", i)
		switch {
		case p == "" || len(p) > maxPathLength || strings.ContainsRune(p, 0):
			bad(field, "it is empty, too long or has a NUL byte", "write a path such as .git/hooks")
		case strings.ContainsAny(p, "*$") || strings.HasPrefix(p, "~"):
			bad(field, fmt.Sprintf("%q would have to be expanded", p), "write a plain path; a relative one stands for any folder of the workspace")
		case slices.Contains(strings.Split(p, "/"), ".."):
			bad(field, fmt.Sprintf("%q contains ..", p), "write where it leads to")
		case path.Clean(p) != p:
			bad(field, fmt.Sprintf("%q is not in its shortest form", p), fmt.Sprintf("write %q", path.Clean(p)))
		case p == "." || p == "/" || p == "/sandbox":
			bad(field, fmt.Sprintf("%q is everything", p), "list a folder in read_only instead")
		case within(p, "/tmp") && !slices.ContainsFunc(f.ReadWrite, func(w string) bool { return within(p, w) }):
			bad(field, fmt.Sprintf("%q is gone when the session ends", p), "leave it out")
		case p[0] == '/' && !f.writable(p):
			bad(field, fmt.Sprintf("%q cannot be written anyway", p), "leave it out, or list what is writable")
		case seen[p]:
			bad(field, fmt.Sprintf("%q is listed twice", p), "remove one")
		}
		seen[p] = true
	}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (e Environment) check(bad report) {
	if len(e) > maxVariables {
		bad("environment", fmt.Sprintf("%d variables", len(e)), fmt.Sprintf("list at most %d", maxVariables))
	}
	for _, name := range slices.Sorted(maps.Keys(e)) {
		field, v := "environment."+name, e[name]
		switch {
		case len(name) > 128 || !variableName.MatchString(name):
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
