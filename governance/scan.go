package governance

import (
	"fmt"
	"unicode/utf8"
)

// Limits of policy text. They are checked on the text itself, before a parser
// sees it: cedar-go's parser is recursive, and a Go program that runs out of
// stack is killed, not told.
const (
	maxPolicyFile  = 4 << 20
	maxPolicy      = 16 << 10 // bytes of one policy, with its comments
	maxPolicyDepth = 64       // brackets inside one another
	maxUnary       = 4        // signs before one value, as in Cedar's grammar
	maxPath        = 16       // names in one path: "a has b.c.d" grows with its square
	maxPolicies    = 100_000
)

// A span is where one policy stands in its file.
type span struct{ start, end int }

// A scanError is a limit that policy text broke, or text that cannot be split
// into policies.
type scanError struct {
	offset   int
	msg, fix string
}

// splitPolicies finds the policies of a file by their semicolons and checks the
// limits. It knows strings and comments, so that brackets in them do not count,
// and nothing else of the language. A policy that passes holds at most
// maxPolicy bytes, which bounds every recursion over it.
func splitPolicies(text string) ([]span, *scanError) {
	if len(text) > maxPolicyFile {
		return nil, &scanError{0, fmt.Sprintf("the file has %d bytes", len(text)), fmt.Sprintf("keep a policy file under %d MiB", maxPolicyFile>>20)}
	}
	if !utf8.ValidString(text) {
		return nil, &scanError{0, "the file is not valid UTF-8", "save it as UTF-8"}
	}
	var (
		spans []span
		start = -1 // of the current policy
		depth int
		unary int // signs in a row
		dots  int // in one path
	)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		case '/':
			if i+1 < len(text) && text[i+1] == '/' {
				for i < len(text) && text[i] != '\n' {
					i++
				}
				continue
			}
			return nil, &scanError{i, `unexpected "/"`, "comments begin with // and end with the line"}
		}
		if start < 0 {
			start = i
		}
		if i-start >= maxPolicy {
			return nil, &scanError{start, fmt.Sprintf("a policy is longer than %d KiB", maxPolicy>>10), "split it, or move its values into entities"}
		}
		if c != '!' && c != '-' {
			unary = 0
		} else if unary++; unary > maxUnary {
			return nil, &scanError{i, fmt.Sprintf("more than %d signs in a row", maxUnary), "remove those that cancel each other out"}
		}
		if c != '.' && !isWord(c) {
			dots = 0
		}
		switch c {
		case '.':
			if dots++; dots > maxPath {
				return nil, &scanError{i, fmt.Sprintf("a path of more than %d names", maxPath), "no argument is that deep"}
			}
		case '"':
			open := i
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
				if i < len(text) && text[i] == '\n' {
					i = len(text)
				}
			}
			if i >= len(text) {
				return nil, &scanError{open, "a string does not end", `close it with " on the same line`}
			}
		case '(', '[', '{':
			if depth++; depth > maxPolicyDepth {
				return nil, &scanError{i, fmt.Sprintf("brackets nest deeper than %d", maxPolicyDepth), "simplify the condition"}
			}
		case ')', ']', '}':
			if depth--; depth < 0 {
				return nil, &scanError{i, fmt.Sprintf("unexpected %q", string(c)), "remove it, or add the bracket that it closes"}
			}
		case ';':
			if depth > 0 {
				return nil, &scanError{i, `";" inside brackets`, "close the bracket first"}
			}
			spans = append(spans, span{start, i + 1})
			start = -1
			if len(spans) > maxPolicies {
				return nil, &scanError{i, fmt.Sprintf("more than %d policies", maxPolicies), "split the bundle"}
			}
		}
	}
	if start >= 0 {
		return nil, &scanError{start, "a policy does not end", `end it with ";"`}
	}
	return spans, nil
}
