package main

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/twinward-dev/twinward/credential"
)

// parseDotenv reads a file of NAME=VALUE lines. There are as many dialects of
// those as there are readers; this takes what all of them read alike, and skips
// the rest and says why:
//
//	# a comment
//	NAME=plain value without quotes, spaces within being part of it
//	export NAME='as it stands, also over several lines'
//	NAME="with the escapes \n \r \t \" \\ \$"  # a comment
func parseDotenv(text []byte) (found, error) {
	if !utf8.Valid(text) {
		return found{}, errNotText
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	p := dotenv{rest: text, line: 1}
	var out found
	for len(p.rest) > 0 {
		line := p.line
		name, value, why, err := p.statement()
		if err != nil {
			return found{}, fmt.Errorf("line %d: %w", line, err)
		}
		if name == "" && why == "" {
			continue // a comment or an empty line
		}
		if err := out.add(name, line, value, why); err != nil {
			return found{}, err
		}
	}
	return out, nil
}

type dotenv struct {
	rest []byte
	line int // the number of the line where rest begins
}

// advance moves past n bytes and returns them.
func (p *dotenv) advance(n int) []byte {
	b := p.rest[:n]
	p.line += bytes.Count(b, []byte("\n"))
	p.rest = p.rest[n:]
	return b
}

// toEnd moves past the end of the line and returns what was before it.
func (p *dotenv) toEnd() []byte {
	n := bytes.IndexByte(p.rest, '\n')
	if n < 0 {
		return p.advance(len(p.rest))
	}
	return bytes.TrimSuffix(p.advance(n + 1)[:n], []byte("\r"))
}

// statement reads one line, or several if the value has several. The value is a
// copy. Why says why it is skipped. An error means that the rest of the file
// cannot be told apart.
func (p *dotenv) statement() (name string, value []byte, why string, err error) {
	p.blanks()
	if len(p.rest) == 0 || p.rest[0] == '#' || p.rest[0] == '\n' || p.rest[0] == '\r' {
		p.toEnd()
		return "", nil, "", nil
	}
	n := 0
	for n < len(p.rest) && p.rest[n] != '=' && p.rest[n] != '\n' {
		n++
	}
	if n == len(p.rest) || p.rest[n] == '\n' {
		p.toEnd() // the line may be part of a secret that lost its quotes: not shown
		return "", nil, "no NAME=VALUE", nil
	}
	raw := bytes.TrimSpace(p.advance(n + 1)[:n])
	if after, ok := bytes.CutPrefix(raw, []byte("export ")); ok {
		raw = bytes.TrimSpace(after)
	}
	if !variableName(raw) {
		// A quote in such a line may run on.
		p.toEnd()
		return "", nil, "what is before = is no name of a variable", nil
	}
	name = string(raw)
	p.blanks()
	switch {
	case len(p.rest) > 0 && p.rest[0] == '\'':
		end := bytes.IndexByte(p.rest[1:], '\'')
		if end < 0 {
			return "", nil, "", errOpenQuote
		}
		value = bytes.Clone(p.advance(end + 2)[1 : end+1])
	case len(p.rest) > 0 && p.rest[0] == '"':
		value, why, err = p.doubleQuoted()
		if err != nil {
			return "", nil, "", err
		}
	default:
		value, why = plainValue(p.toEnd())
		return name, value, why, nil
	}
	// Behind a quote only a comment may follow.
	if after := bytes.TrimSpace(p.toEnd()); len(after) > 0 && after[0] != '#' && why == "" {
		clear(value)
		value, why = nil, "something follows the closing quote"
	}
	return name, value, why, nil
}

func (p *dotenv) blanks() {
	for len(p.rest) > 0 && (p.rest[0] == ' ' || p.rest[0] == '\t') {
		p.advance(1)
	}
}

// plainValue is a value without quotes.
func plainValue(line []byte) (value []byte, why string) {
	line = bytes.TrimSpace(line)
	switch {
	case bytes.ContainsAny(line, "\"'`"):
		return nil, "a quote within a value that is not quoted: put all of it in single quotes"
	case bytes.ContainsAny(line, "#"):
		return nil, "a # in a value that is not quoted, which some readers take for a comment: put it in single quotes"
	case bytes.ContainsAny(line, "$"):
		return nil, "a $ in a value that is not in single quotes: it may refer to another variable"
	case bytes.ContainsAny(line, `\`):
		return nil, "a backslash in a value that is not quoted: put it in single quotes"
	}
	return bytes.Clone(line), ""
}

// doubleQuoted reads a value in double quotes, of which the first is at the
// start of rest.
func (p *dotenv) doubleQuoted() (value []byte, why string, err error) {
	end := 1
	for ; end < len(p.rest) && p.rest[end] != '"'; end++ {
		if p.rest[end] == '\\' {
			end++
		}
	}
	if end >= len(p.rest) {
		return nil, "", errOpenQuote
	}
	raw := p.advance(end + 1)[1:end]
	value = make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '$' || c == '`':
			clear(value)
			return nil, "a " + string(c) + " in double quotes may refer to something else: put the value in single quotes", nil
		case c != '\\':
			value = append(value, c)
			continue
		}
		i++ // there is one: a backslash never ends raw
		switch raw[i] {
		case 'n':
			value = append(value, '\n')
		case 'r':
			value = append(value, '\r')
		case 't':
			value = append(value, '\t')
		case '"', '\\', '$':
			value = append(value, raw[i])
		default:
			clear(value)
			return nil, "an escape that readers do not agree about: put the value in single quotes", nil
		}
	}
	return value, "", nil
}

func variableName(b []byte) bool {
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return len(b) > 0 && credential.CheckName(string(b)) == nil
}
