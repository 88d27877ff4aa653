package sandbox

import (
	"fmt"
	"strings"
)

// OpenShell's documents and code do not agree on what "*" and "**" in a path
// stand for. An allow rule is therefore read in the narrowest way and a deny
// rule in the widest.

// allowPath returns the glob for what both a rule's and its endpoint's path
// match at least, read narrowly. No glob without an error: no path at all.
func (i *importer) allowPath(field, rule, endpoint string) (string, bool) {
	narrow := func(field, g string) (string, bool) {
		out, problem := narrowGlob(g)
		fix := "write paths that begin with /, with * for a part of one segment and ** for whole ones"
		if problem == "" {
			problem, fix = checkGlob(out)
		}
		if problem != "" {
			i.refuse(field, fmt.Sprintf("%q %s", g, problem), fix)
		}
		return out, problem == ""
	}
	a, ok := narrow(field, rule)
	if !ok || endpoint == "" {
		return a, ok
	}
	b, ok := narrow(field, endpoint)
	switch {
	case !ok:
		return "", false
	case globCovers(b, a):
		return a, true
	case globCovers(a, b):
		return b, true
	case apart(a, b):
		i.dropped(field, "no path matches both %q and the endpoint's own %q", rule, endpoint)
		return "", false
	}
	i.refuse(field, fmt.Sprintf("which paths match both %q and the endpoint's own %q cannot be said in one glob", rule, endpoint), "write one glob, and leave the endpoint's path out")
	return "", false
}

// denyPath returns a glob for all that a deny rule could be about.
func (i *importer) denyPath(q shellRequest, endpoint string) (string, bool) {
	out := wideGlob(q.path)
	if endpoint != "" {
		if e := wideGlob(endpoint); globCovers(out, e) {
			out = e
		} else if !globCovers(e, out) {
			i.tightened(q.field+".path", "it is denied whether or not the endpoint's own path matches")
		}
	}
	if out != q.path && q.path != "**" && strings.Trim(out, "/*") != "" {
		i.tightened(q.field+".path", "%q is denied as %q, the widest way to read it", q.path, out)
	}
	if problem, fix := checkGlob(out); problem != "" {
		i.refuse(q.field+".path", fmt.Sprintf("%q %s", q.path, problem), fix)
		return "", false
	}
	return out, true
}

// narrowGlob returns a glob of ours that matches no more than g does.
func narrowGlob(g string) (out, problem string) {
	if strings.ContainsAny(g, "?[]{}\\") {
		return "", "has ?, a class, alternatives or an escape, which globs do not have here"
	}
	if g == "**" || strings.HasPrefix(g, "**/") {
		g = "/" + g
	}
	if !strings.HasPrefix(g, "/") {
		return "", "does not begin with /, as paths do"
	}
	segments := strings.Split(g, "/")
	for n, s := range segments {
		if s == "**" {
			continue
		}
		for strings.Contains(s, "**") { // not a whole segment
			s = strings.ReplaceAll(s, "**", "*")
		}
		segments[n] = s
	}
	return strings.Join(segments, "/"), ""
}

// wideGlob returns a glob of ours that matches all that g could.
func wideGlob(g string) string {
	if g == "" {
		return "/**"
	}
	var b strings.Builder
	segments := strings.Split(g, "/")
	last := len(segments) - 1
	for n, s := range segments {
		if s == "**" && n < last {
			b.WriteString("**") // no segment at all, too
			continue
		}
		wide, rest := wideSegment(s)
		if b.WriteString(wide); rest {
			break
		}
		if n < last {
			b.WriteByte('/')
		}
	}
	out := b.String()
	if strings.HasPrefix(out, "**") {
		out = "/" + out
	}
	for strings.Contains(out, "***") {
		out = strings.ReplaceAll(out, "***", "**")
	}
	return out
}

// wideSegment returns the same for a part between slashes, and whether that
// stands for all that follows as well.
func wideSegment(s string) (wide string, rest bool) {
	if n := strings.IndexAny(s, "[{\\"); n >= 0 {
		s, rest = s[:n]+"*", true
	}
	return strings.NewReplacer("*", "**", "?", "**").Replace(s), rest
}

// wideMatch reports whether a pattern of programs could match a path.
func wideMatch(pattern, path string) bool {
	parts := strings.Split(wideGlob(pattern), "**")
	if len(parts) == 1 {
		return parts[0] == path
	}
	rest, ok := strings.CutPrefix(path, parts[0])
	if !ok || !strings.HasSuffix(rest, parts[len(parts)-1]) {
		return false
	}
	rest = strings.TrimSuffix(rest, parts[len(parts)-1])
	for _, p := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, p); !ok {
			return false
		}
	}
	return true
}

// globCovers reports whether a matches all that b matches, as far as that can
// be seen.
func globCovers(a, b string) bool {
	if a == b {
		return true
	}
	before, any := strings.CutSuffix(a, "**")
	return any && !strings.Contains(before, "*") && strings.HasPrefix(b, before)
}

// apart reports whether two globs differ before their first star, so that no
// path matches both.
func apart(a, b string) bool {
	x, _, starX := strings.Cut(a, "*")
	y, _, starY := strings.Cut(b, "*")
	switch {
	case !starX && !starY:
		return x != y
	case !starX:
		return !strings.HasPrefix(x, y)
	case !starY:
		return !strings.HasPrefix(y, x)
	}
	return !strings.HasPrefix(x, y) && !strings.HasPrefix(y, x)
}
