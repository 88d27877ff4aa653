package egress

import (
	"errors"
	"fmt"
	"strings"
)

// maxGlob bounds a glob, in tokens.
const maxGlob = 256

// A glob matches canonical paths: "*" stands for any bytes but "/", "**" for
// any bytes, also none. The empty glob matches every path.
type glob struct {
	text   string
	prefix string  // literal beginning
	tokens []token // what follows it
}

// A token is a literal byte or one of the stars.
type token uint16

const (
	star     token = 256 + iota // any bytes but /
	starStar                    // any bytes
)

// parseGlob reads a glob, which must be written in the spelling that paths are
// judged in.
func parseGlob(text string) (glob, error) {
	g := glob{text: text}
	if text == "" {
		return g, nil
	}
	p, err := canonicalPath(text)
	switch {
	case err != nil:
		return g, fmt.Errorf("path %q: %w", text, err)
	case len(p.more) > 0:
		return g, fmt.Errorf("path %q can be read as %q as well: write delimiters as they are, and leave out parameters after ;", text, p.more[0])
	case p.text != text:
		return g, fmt.Errorf("path %q is never seen in that spelling: write %q", text, p.text)
	case strings.Contains(text, "***"):
		return g, fmt.Errorf("path %q: three stars mean nothing: * is a part of one segment, ** any number of segments", text)
	}
	first := strings.IndexByte(text, '*')
	if first < 0 {
		first = len(text)
	}
	g.prefix = text[:first]
	for i := first; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "**"):
			g.tokens = append(g.tokens, starStar)
			i++
		case text[i] == '*':
			g.tokens = append(g.tokens, star)
		default:
			g.tokens = append(g.tokens, token(text[i]))
		}
	}
	if len(g.tokens) > maxGlob {
		return g, errors.New("path: the glob is too long")
	}
	return g, nil
}

// CheckGlob reports why a path glob is not one; see [NewHTTPRules].
func CheckGlob(text string) error {
	_, err := parseGlob(text)
	return err
}

// match reports whether the whole of p is matched. It takes at most one step
// for each byte of p and token of the glob, whatever they are.
func (g *glob) match(p string) bool {
	if g.text == "" {
		return true
	}
	rest, ok := strings.CutPrefix(p, g.prefix)
	if !ok {
		return false
	}
	if len(g.tokens) == 0 {
		return rest == ""
	}
	if len(g.tokens) == 1 { // by far the most frequent
		return g.tokens[0] == starStar || strings.IndexByte(rest, '/') < 0
	}
	// now holds how many tokens may have been matched so far; in order, each once.
	var a, b [maxGlob + 1]uint16
	now, next := a[:0], b[:0]
	now = g.reach(now, 0)
	for i := 0; i < len(rest) && len(now) > 0; i++ {
		c := token(rest[i])
		next = next[:0]
		for _, at := range now {
			if int(at) == len(g.tokens) {
				continue
			}
			switch t := g.tokens[at]; {
			case t == starStar, t == star && c != '/':
				next = g.reach(next, at)
			case t == c:
				next = g.reach(next, at+1)
			}
		}
		now, next = next, now
	}
	return len(now) > 0 && int(now[len(now)-1]) == len(g.tokens)
}

// reach adds a place to a list in order, and the place behind a star there,
// which may match nothing.
func (g *glob) reach(places []uint16, at uint16) []uint16 {
	for {
		if n := len(places); n == 0 || places[n-1] < at {
			places = append(places, at)
		}
		if int(at) == len(g.tokens) || g.tokens[at] < star {
			return places
		}
		at++
	}
}

// lower returns the glob that matches what [lower] makes of what g matches.
func (g glob) lower() glob {
	out := glob{text: g.text, prefix: lower(g.prefix)}
	for _, t := range g.tokens {
		if 'A' <= t && t <= 'Z' {
			t += 'a' - 'A'
		}
		out.tokens = append(out.tokens, t)
	}
	return out
}
