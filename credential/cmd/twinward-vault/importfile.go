package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/credential"
)

// The limits of files that are imported.
const (
	maxImportBytes   = 1 << 20
	maxImportEntries = 1000
)

var (
	errNotText   = errors.New("the file is not UTF-8 text")
	errOpenQuote = errors.New("a quote is not closed: nothing behind it can be told apart")
	errTooMany   = fmt.Errorf("more than %d entries", maxImportEntries)
)

// found is what a file of secrets has in it, in its order.
type found struct {
	entries []entry
	skipped []skipped
}

// An entry is a secret that can be kept in a vault.
type entry struct {
	name   string
	line   int
	secret credential.Secret
}

// A skipped entry is one that is left where it is. It holds no part of the
// value.
type skipped struct {
	name string // empty if there is no usable one
	line int
	why  string
}

// add files an entry, or skips it for the reason that is given or found. It
// takes the value, and wipes it.
func (f *found) add(name string, line int, value []byte, why string) error {
	defer clear(value)
	if len(f.entries)+len(f.skipped) >= maxImportEntries {
		return errTooMany
	}
	for i, e := range f.entries {
		if e.name == name && name != "" {
			// Which of them counts depends on the reader.
			e.secret.Destroy()
			f.skipped = append(f.skipped, skipped{name, e.line, "it is there twice"})
			f.entries = slices.Delete(f.entries, i, i+1)
			why = "it is there twice"
			break
		}
	}
	if why == "" && slices.ContainsFunc(f.skipped, func(s skipped) bool { return s.name == name && name != "" }) {
		why = "it is there twice"
	}
	if why == "" {
		why = unfit(name, value)
	}
	if why != "" {
		f.skipped = append(f.skipped, skipped{name, line, why})
		return nil
	}
	f.entries = append(f.entries, entry{name, line, credential.NewSecret(value)})
	return nil
}

// unfit says why a value cannot be a secret in a vault, if so.
func unfit(name string, value []byte) string {
	switch {
	case credential.CheckName(name) != nil:
		return "no secret can have that name"
	case len(value) == 0:
		return "it is empty"
	case len(value) < credential.MinLength:
		return fmt.Sprintf("shorter than %d bytes: too short to be found in what comes back, and to be a secret", credential.MinLength)
	case len(value) > credential.MaxLength:
		return fmt.Sprintf("longer than %d bytes", credential.MaxLength)
	case bytes.Contains(value, []byte("openshell:resolve:env:")), bytes.HasPrefix(value, []byte("provider-OPENSHELL-RESOLVE-ENV-")):
		return "a placeholder of OpenShell, not the secret"
	}
	return ""
}

// parseNemoClaw reads NemoClaw's ~/.nemoclaw/credentials.json: one JSON object,
// from the name of a variable to its value. Like NemoClaw, it cuts white space
// off both ends of a value, and carriage returns out of it.
func parseNemoClaw(text []byte) (found, error) {
	if !utf8.Valid(text) {
		return found{}, errNotText
	}
	d := jsontext.NewDecoder(bytes.NewReader(text)) // refuses duplicate names
	if tok, err := d.ReadToken(); err != nil || tok.Kind() != '{' {
		return found{}, errors.New("the file is not one JSON object: perhaps it was cut off while it was written")
	}
	var out found
	for d.PeekKind() == '"' {
		tok, err := d.ReadToken()
		if err != nil {
			return found{}, badJSON(d, text)
		}
		line := 1 + bytes.Count(text[:d.InputOffset()], []byte("\n"))
		name := tok.String()
		raw, err := d.ReadValue()
		if err != nil {
			return found{}, badJSON(d, text)
		}
		var value []byte
		why := ""
		if raw.Kind() == '"' {
			value, err = jsontext.AppendUnquote(nil, raw)
			if err != nil {
				return found{}, badJSON(d, text)
			}
		} else {
			why = "not a string"
		}
		clean := bytes.TrimSpace(slices.DeleteFunc(value, func(c byte) bool { return c == '\r' }))
		if err := out.add(shownName(name), line, clean, why); err != nil {
			return found{}, err
		}
		clear(value)
	}
	if _, err := d.ReadToken(); err != nil {
		return found{}, badJSON(d, text)
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		return found{}, errors.New("something follows the JSON object")
	}
	return out, nil
}

// badJSON says where, and nothing of what is there.
func badJSON(d *jsontext.Decoder, text []byte) error {
	line := 1 + bytes.Count(text[:d.InputOffset()], []byte("\n"))
	return fmt.Errorf("line %d: not JSON, or a name that is there twice: perhaps the file was cut off while it was written", line)
}

// shownName is the name, or a word in its place if it is none that can be
// shown: in a damaged file it may be anything.
func shownName(name string) string {
	if credential.CheckName(name) != nil {
		return ""
	}
	return name
}
