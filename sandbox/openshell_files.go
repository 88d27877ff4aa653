package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// files writes the static part: paths, and with them the process.
func (i *importer) files(o *shellPolicy, p *Policy) {
	if o.compatibility != "hard_requirement" && o.files {
		at := "filesystem_policy"
		if i.places["landlock"] != nil {
			at = "landlock"
		}
		i.tightened(at, "every layer is required and every path must exist, which is best effort there")
	}
	if o.files && !o.workdir && !slices.Contains(o.readWrite, "/sandbox") {
		i.note(&i.report.Differs, "filesystem_policy", "/sandbox is the session's own workspace and is always writable")
	}
	readWrite := i.paths("filesystem_policy.read_write", o.readWrite)
	readOnly := i.paths("filesystem_policy.read_only", o.readOnly)
	p.Filesystem.ReadOnly = []string{}
	for _, r := range readOnly {
		if slices.Contains(readWrite, r) {
			i.tightened("filesystem_policy.read_only", "%s is on both lists, and stays read-only", r)
			readWrite = slices.DeleteFunc(readWrite, func(w string) bool { return w == r })
		}
		for _, w := range readWrite {
			if r != w && within(r, w) {
				i.tightened("filesystem_policy.read_only", "%s stays read-only inside %s, which is writable", r, w)
			}
		}
		p.Filesystem.ReadOnly = append(p.Filesystem.ReadOnly, r)
	}
	p.Filesystem.ReadWrite = readWrite
	if slices.Contains(readOnly, "/usr") {
		for _, s := range SystemPaths() {
			if !slices.Contains(p.Filesystem.ReadOnly, s) && !slices.Contains(readWrite, s) {
				p.Filesystem.ReadOnly = append(p.Filesystem.ReadOnly, s)
				i.note(&i.report.Added, "filesystem_policy.read_only", "%s, which is a part of /usr on today's systems", s)
			}
		}
	}
	if !o.files {
		p.Filesystem.ReadOnly = nil
		i.note(&i.report.Added, "filesystem_policy", "it is missing: the system's own programs, read-only")
	}
}

// paths cleans a list and leaves out what a session makes for itself.
func (i *importer) paths(field string, list []string) (out []string) {
	for n, text := range list {
		at := fmt.Sprintf("%s[%d]", field, n)
		if slices.Contains(strings.Split(text, "/"), "..") || !strings.HasPrefix(text, "/") {
			i.refuse(at, fmt.Sprintf("%q is not an absolute path without ..", text), "write where it leads to")
			continue
		}
		clean := path.Clean(text)
		switch {
		case clean == "/tmp" || clean == "/etc" || within(clean, "/sandbox") || within(clean, "/proc") || within(clean, "/dev"):
			i.dropped(at, "a session has a %s of its own", clean)
			continue
		case within(clean, "/sys") || within(clean, "/run"):
			i.tightened(at, "%s is not shown inside", clean)
			continue
		}
		if problem, fix := checkPath(clean); problem != "" {
			i.refuse(at, fmt.Sprintf("%q %s", text, problem), fix)
			continue
		}
		if !slices.Contains(out, clean) {
			out = append(out, clean)
		}
	}
	return out
}
