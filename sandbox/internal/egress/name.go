package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// maxName is the longest host name, without the trailing dot.
const maxName = 253

var errName = errors.New("not a host name")

// Canonical returns name in the one spelling that everything here compares:
// lower-case ASCII without the trailing dot. Bytes that no host name has,
// empty or overlong labels and IP addresses are errors.
func Canonical(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return "", fmt.Errorf("%w: it has %d bytes", errName, len(name))
	}
	out := []byte(name)
	label := 0
	for i, c := range out {
		switch {
		case 'A' <= c && c <= 'Z':
			out[i] = c + 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
		case c == '-':
			if label == 0 || i+1 == len(out) || out[i+1] == '.' {
				return "", fmt.Errorf("%w: a label begins or ends with -", errName)
			}
		case c == '.':
			if label == 0 {
				return "", fmt.Errorf("%w: a label is empty", errName)
			}
			label = 0
			continue
		case c >= 0x80:
			return "", fmt.Errorf("%w: it has letters beyond ASCII, which are written as xn--", errName)
		default:
			return "", fmt.Errorf("%w: it contains %q", errName, c)
		}
		if label++; label > 63 {
			return "", fmt.Errorf("%w: a label is longer than 63 bytes", errName)
		}
	}
	name = string(out)
	if _, err := netip.ParseAddr(name); err == nil || numeric(name[strings.LastIndexByte(name, '.')+1:]) {
		return "", fmt.Errorf("%w: it is an address", errName)
	}
	return name, nil
}

// numeric reports whether a last label makes the whole name an IPv4 address in
// one of its many spellings (127.1, 0x7f.1, 2130706433).
func numeric(label string) bool {
	if strings.HasPrefix(label, "0x") {
		return strings.Trim(label[2:], "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// A Pattern is a host name with at most a few stars; see [ParsePattern]. The
// zero Pattern matches nothing.
type Pattern struct {
	text   string
	labels []string // as written; nil for an exact name
}

// ParsePattern reads an exact name or a pattern: "*" may stand once for a part
// of the first label or for a whole label that is not the last two, and "**" as
// the first label for one label or more. What follows the last star must be a
// name that somebody can own, so "*", "*.com" and "*.co.uk" are errors.
func ParsePattern(s string) (Pattern, error) {
	if !strings.Contains(s, "*") {
		name, err := Canonical(s)
		return Pattern{text: name}, err
	}
	if strings.HasSuffix(s, ".") {
		return Pattern{}, fmt.Errorf("%w: a pattern ends without a dot", errName)
	}
	s = strings.ToLower(s)
	labels := strings.Split(s, ".")
	last := 0
	for i, l := range labels {
		switch stars := strings.Count(l, "*"); {
		case stars == 0:
			continue
		case l == "*":
		case l == "**" && i == 0:
		case stars == 1 && i == 0:
		default:
			return Pattern{}, fmt.Errorf("%w: %q: a star stands for the first label, a part of it, or a whole label in the middle; ** only for the first", errName, l)
		}
		last = i
	}
	owner := strings.Join(labels[last+1:], ".")
	if len(labels)-last-1 < 2 {
		return Pattern{}, fmt.Errorf("%w: it matches names of everybody: two labels or more must follow the star", errName)
	}
	if suffix, icann := publicsuffix.PublicSuffix(owner); icann && suffix == owner {
		return Pattern{}, fmt.Errorf("%w: it matches names of everybody: anyone can register a name under %q", errName, owner)
	}
	if _, err := Canonical(strings.ReplaceAll(s, "*", "x")); err != nil {
		return Pattern{}, err
	}
	return Pattern{text: s, labels: labels}, nil
}

// String returns the pattern in its canonical spelling.
func (p Pattern) String() string { return p.text }

// Exact reports whether the pattern is one name.
func (p Pattern) Exact() bool { return p.labels == nil }

// Match reports whether the pattern covers name, which must be canonical.
func (p Pattern) Match(name string) bool {
	if p.labels == nil {
		return name != "" && name == p.text
	}
	have, want := strings.Split(name, "."), p.labels
	if want[0] == "**" {
		extra := len(have) - len(want)
		if extra < 0 {
			return false
		}
		have, want = have[extra+1:], want[1:]
	}
	if len(have) != len(want) {
		return false
	}
	for i, w := range want {
		if !matchLabel(w, have[i]) {
			return false
		}
	}
	return true
}

// matchLabel matches one label; a star takes one byte or more.
func matchLabel(want, have string) bool {
	before, after, star := strings.Cut(want, "*")
	if !star {
		return want == have
	}
	return len(have) > len(before)+len(after) && strings.HasPrefix(have, before) && strings.HasSuffix(have, after)
}

// Overlaps reports whether some name could be matched by both patterns.
func (p Pattern) Overlaps(q Pattern) bool {
	if p.text == "" || q.text == "" {
		return false
	}
	a, b := strings.Split(p.text, "."), strings.Split(q.text, ".")
	if b[0] == "**" {
		a, b = b, a
	}
	if a[0] != "**" {
		return len(a) == len(b) && labelsOverlap(a, b)
	}
	// What follows ** must fit the end of the other, and leave a label to it.
	a = a[1:]
	if b[0] == "**" {
		b = b[1:]
		n := min(len(a), len(b))
		return labelsOverlap(a[len(a)-n:], b[len(b)-n:])
	}
	return len(b) > len(a) && labelsOverlap(a, b[len(b)-len(a):])
}

func labelsOverlap(a, b []string) bool {
	for i := range a {
		if !labelOverlap(a[i], b[i]) {
			return false
		}
	}
	return true
}

// Covers reports whether p matches every name that q matches.
func (p Pattern) Covers(q Pattern) bool {
	if p.text == "" || q.text == "" {
		return false
	}
	a, b := strings.Split(p.text, "."), strings.Split(q.text, ".")
	switch {
	case a[0] == "**" && b[0] == "**":
		a, b = a[1:], b[1:]
		if len(b) < len(a) {
			return false
		}
		b = b[len(b)-len(a):]
	case a[0] == "**":
		a = a[1:]
		if len(b) <= len(a) {
			return false
		}
		b = b[len(b)-len(a):]
	case b[0] == "**" || len(a) != len(b):
		return false
	}
	for i := range a {
		pa, sa, starA := strings.Cut(a[i], "*")
		pb, sb, starB := strings.Cut(b[i], "*")
		switch {
		case !starB && !matchLabel(a[i], b[i]):
			return false
		case starB && !(starA && strings.HasPrefix(pb, pa) && strings.HasSuffix(sb, sa)):
			return false
		}
	}
	return true
}

// labelOverlap reports whether some label is matched by both, each of which has
// at most one star.
func labelOverlap(a, b string) bool {
	pa, sa, starA := strings.Cut(a, "*")
	pb, sb, starB := strings.Cut(b, "*")
	switch {
	case !starA:
		return matchLabel(b, a)
	case !starB:
		return matchLabel(a, b)
	}
	// A label that is long enough has both beginnings and both ends.
	return (strings.HasPrefix(pa, pb) || strings.HasPrefix(pb, pa)) && (strings.HasSuffix(sa, sb) || strings.HasSuffix(sb, sa))
}
