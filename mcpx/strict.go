package mcpx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of one message. They are the whole message's: the engine holds the
// arguments of a call to stricter ones.
const (
	maxBody  = 4 << 20
	maxDepth = 64 + 4 // the arguments lie four levels deep
)

// errJSON wraps what is wrong with a message, in words for the client.
var errJSON = errors.New("not a JSON-RPC message")

// A message is what the door needs to know of one JSON-RPC message before
// anything else parses it.
type message struct {
	method  string
	call    bool            // it has an id
	id      json.RawMessage // as the client wrote it
	name    string          // what Mcp-Name must say: params.name, or params.uri
	named   bool            // the method has such a name
	version string          // of the protocol, from params._meta
	reply   bool            // it is a response, not a request
}

// scan reads one message strictly: exactly one object, UTF-8 without
// replacement, no key twice at any level, bounded depth, an id that survives
// every JSON parser, and no batch.
func scan(body []byte) (message, error) {
	var m message
	if err := checkDepth(body); err != nil {
		return m, err
	}
	d := jsontext.NewDecoder(bytes.NewReader(body))
	if k := d.PeekKind(); k == '[' {
		return m, fmt.Errorf("%w: batches are not accepted", errJSON)
	} else if k != '{' {
		return m, fmt.Errorf("%w: the body must be one JSON object", errJSON)
	}
	keys, err := members(d)
	if err != nil {
		return m, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return m, fmt.Errorf("%w: there is data after the message", errJSON)
	}
	if v, ok := keys["jsonrpc"]; !ok || text(v) != "2.0" {
		return m, fmt.Errorf(`%w: "jsonrpc" must be "2.0"`, errJSON)
	}
	if id, ok := keys["id"]; ok {
		if !validID(id) {
			return m, fmt.Errorf("%w: the id must be a string or a whole number that is exact in every parser", errJSON)
		}
		m.call, m.id = true, json.RawMessage(bytes.Clone(id))
	}
	_, hasResult := keys["result"]
	_, hasError := keys["error"]
	method, ok := keys["method"]
	switch {
	case !ok && (hasResult || hasError):
		m.reply = true
		return m, nil
	case !ok || method.Kind() != '"':
		return m, fmt.Errorf(`%w: "method" must be a string`, errJSON)
	case hasResult || hasError:
		return m, fmt.Errorf("%w: it is both a request and a response", errJSON)
	}
	m.method = text(method)
	return m, m.readParams(keys["params"])
}

// readParams reads what the headers and the protocol version are compared with.
func (m *message) readParams(params jsontext.Value) error {
	field := ""
	switch m.method {
	case methodCallTool, methodGetPrompt:
		field = "name"
	case methodReadResource:
		field = "uri"
	}
	if len(params) == 0 || params.Kind() == 'n' {
		return nil
	}
	if params.Kind() != '{' {
		return fmt.Errorf(`%w: "params" must be an object`, errJSON)
	}
	keys, err := members(jsontext.NewDecoder(bytes.NewReader(params)))
	if err != nil {
		return err
	}
	if v, ok := keys[field]; ok && field != "" {
		if v.Kind() != '"' {
			return fmt.Errorf("%w: params.%s must be a string", errJSON, field)
		}
		m.name, m.named = text(v), true
	}
	if v, ok := keys["arguments"]; ok && m.method == methodCallTool && v.Kind() != '{' {
		return fmt.Errorf("%w: params.arguments must be an object", errJSON)
	}
	if v, ok := keys["_meta"]; ok && v.Kind() == '{' {
		meta, err := members(jsontext.NewDecoder(bytes.NewReader(v)))
		if err != nil {
			return err
		}
		if v, ok := meta["io.modelcontextprotocol/protocolVersion"]; ok {
			m.version = text(v)
		}
	}
	return nil
}

// members reads one object. The decoder refuses invalid UTF-8, lone surrogates
// and keys that occur twice, however they are escaped, at every level below.
func members(d *jsontext.Decoder) (map[string]jsontext.Value, error) {
	bad := func(err error) (map[string]jsontext.Value, error) {
		var syntax *jsontext.SyntacticError
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return nil, fmt.Errorf("%w: a key occurs twice", errJSON)
		}
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%w: %w at byte %d", errJSON, syntax.Err, syntax.ByteOffset)
		}
		return nil, fmt.Errorf("%w: it is cut off", errJSON)
	}
	if _, err := d.ReadToken(); err != nil {
		return bad(err)
	}
	keys := make(map[string]jsontext.Value, 4)
	for {
		tok, err := d.ReadToken()
		if err != nil {
			return bad(err)
		}
		if tok.Kind() == '}' {
			return keys, nil
		}
		key := tok.String()
		v, err := d.ReadValue()
		if err != nil {
			return bad(err)
		}
		keys[key] = v.Clone()
	}
}

// checkDepth bounds nesting before any parser recurses.
func checkDepth(body []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		c := body[i]
		switch {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("%w: nested deeper than %d levels", errJSON, maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// text returns the string that v is, or "".
func text(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(b)
}

// maxSafeInt is the largest integer that a float64 parser keeps exact.
const maxSafeInt = 1<<53 - 1

func validID(v jsontext.Value) bool {
	switch v.Kind() {
	case '"':
		return len(v) <= 256
	case '0':
		n, err := strconv.ParseInt(string(v), 10, 64)
		return err == nil && n >= -maxSafeInt && n <= maxSafeInt
	}
	return false
}
