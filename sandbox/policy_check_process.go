package sandbox

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

func (l *Process) check(bad report, f *Filesystem) {
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
		{"max_total_memory", l.MaxTotalMemory, minTotal, 1 << 60, "write a size such as 8GiB, at least 16MiB, or leave it out"},
		{"max_cpu", l.MaxCPU, 10, 1 << 20, "write a number of processors such as 1.5, at least 0.01, or leave it out"},
	} {
		if v.n != 0 && (v.n < v.low || v.n > v.high) {
			bad("process."+v.name, fmt.Sprintf("%d is out of bounds", v.n), v.fix)
		}
	}
	if l.Exec != "" && l.Exec != ExecStrict {
		bad("process.exec", fmt.Sprintf("%q is not a mode", l.Exec), "write exec: strict, or leave it out")
	}
	checkPrograms("process.programs", l.Programs, f, bad)
}

// checkPrograms reports what is wrong with a list of programs. f says which
// places are writable.
func checkPrograms(field string, list []Program, f *Filesystem, bad report) {
	if list != nil && len(list) == 0 {
		bad(field, "no program is listed", "list some, or leave programs out for any")
	}
	if len(list) > maxPrograms {
		bad(field, fmt.Sprintf("%d programs", len(list)), fmt.Sprintf("list at most %d", maxPrograms))
	}
	seen := make(map[Program]bool)
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch problem, fix := checkProgramPath(p.Path); {
		case problem != "":
			bad(at+".path", fmt.Sprintf("%q %s", p.Path, problem), fix)
		case seen[p] || p.SHA256 != "" && seen[Program{Path: p.Path}]:
			bad(at+".path", fmt.Sprintf("%q is listed twice", p.Path), "remove one")
		case p.SHA256 == "" && f.writable(p.Path):
			bad(at+".path", fmt.Sprintf("%q can be replaced by the session itself", p.Path), "add its sha256, or list a program in a place that is read-only")
		}
		if p.SHA256 != "" && !digest.MatchString(p.SHA256) {
			bad(at+".sha256", fmt.Sprintf("%q is not a SHA-256 digest", p.SHA256), "write 64 lower-case hexadecimal digits, as sha256sum prints them")
		}
		seen[p] = true
	}
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

func checkProgramPath(p string) (problem, fix string) {
	if p == Self { // there when Options.Self is set, and read-only
		return "", ""
	}
	if clean := path.Clean(p); clean == p && (within(p, "/sandbox") || within(p, "/tmp")) {
		return "", "" // of the session, where a digest is asked for
	}
	if strings.Contains(p, "*") {
		return "has a star", "list each program by its path"
	}
	return checkPath(p)
}

func checkDevices(list []string, bad report) {
	if len(list) > maxDevices {
		bad("devices", fmt.Sprintf("%d devices", len(list)), fmt.Sprintf("list at most %d", maxDevices))
	}
	seen := make(map[string]bool)
	for i, d := range list {
		field := fmt.Sprintf("devices[%d]", i)
		switch {
		case seen[d]:
			bad(field, fmt.Sprintf("%q is listed twice", d), "remove one")
		case d == "gpu":
		case !strings.HasPrefix(d, "/dev/") || path.Clean(d) != d || strings.ContainsAny(d, "*$\x00") || len(d) > maxPathLength:
			bad(field, fmt.Sprintf("%q is neither a set of devices nor a path", d), "write gpu, or the path of one node under /dev")
		}
		seen[d] = true
	}
}
