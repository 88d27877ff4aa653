package mcpx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

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
// anything else parses it. Its byte slices are parts of the body.
type message struct {
	method  string
	call    bool            // it has an id
	id      json.RawMessage // as the client wrote it
	name    string          // what Mcp-Name must say: params.name, or params.uri
	named   bool            // the method has such a name
	version string          // of the protocol, from params._meta
	reply   bool            // it is a response, not a request

	args      json.RawMessage // params.arguments
	asked     meta            // params._meta
	odd       bool            // it holds what only the SDK's parser knows how to take
	cancels   json.RawMessage // params.requestId
	responses json.RawMessage // params.inputResponses
	speaks    string          // params.protocolVersion
	features  json.RawMessage // params.capabilities
}

// scan reads one message strictly: exactly one object, UTF-8 without
// replacement, no key twice at any level, bounded depth, an id that survives
// every JSON parser, and no batch.
func scan(body []byte) (message, error) {
	var m message
	if err := checkDepth(body); err != nil {
		return m, err
	}
	d := newReader(body)
	defer d.close()
	if k := d.PeekKind(); k == '[' {
		return m, fmt.Errorf("%w: batches are not accepted", errJSON)
	} else if k != '{' {
		return m, fmt.Errorf("%w: the body must be one JSON object", errJSON)
	}
	var version, id, method jsontext.Value
	var hasMethod, answers bool
	var p params
	err := d.object(func(key []byte) error {
		var err error
		switch string(key) {
		case "jsonrpc":
			version, err = d.value()
		case "id":
			id, err = d.value()
		case "method":
			hasMethod = true
			method, err = d.value()
		case "params":
			err = p.read(d)
		case "result", "error":
			answers = true
			err = d.SkipValue()
		default:
			m.odd = true
			err = d.SkipValue()
		}
		return err
	})
	if err != nil {
		return m, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return m, fmt.Errorf("%w: there is data after the message", errJSON)
	}
	if text(version) != "2.0" {
		return m, fmt.Errorf(`%w: "jsonrpc" must be "2.0"`, errJSON)
	}
	if id != nil {
		if !validID(id) {
			return m, fmt.Errorf("%w: the id must be a string or a whole number that is exact in every parser", errJSON)
		}
		m.call, m.id = true, json.RawMessage(id)
	}
	switch {
	case !hasMethod && answers:
		m.reply = true
		return m, nil
	case !hasMethod || method.Kind() != '"':
		return m, fmt.Errorf(`%w: "method" must be a string`, errJSON)
	case answers:
		return m, fmt.Errorf("%w: it is both a request and a response", errJSON)
	}
	m.method = text(method)
	return m, p.into(&m)
}

// params are the parameters that the door looks at, of whatever method.
type params struct {
	kind      jsontext.Kind // 0 if there are none
	name      jsontext.Value
	uri       jsontext.Value
	args      jsontext.Value
	request   jsontext.Value
	task      jsontext.Value
	responses jsontext.Value
	speaks    jsontext.Value
	features  jsontext.Value
	meta      meta
	other     bool // there are keys besides
}

func (p *params) read(d *reader) error {
	p.kind = d.PeekKind()
	if p.kind != '{' {
		return d.SkipValue()
	}
	return d.object(func(key []byte) error {
		var err error
		switch string(key) {
		case "name":
			p.name, err = d.value()
		case "uri":
			p.uri, err = d.value()
		case "arguments":
			p.args, err = d.value()
		case "requestId":
			p.request, err = d.value()
		case "taskId":
			p.other = true
			p.task, err = d.value()
		case "inputResponses":
			p.other = true
			p.responses, err = d.value()
		case "protocolVersion":
			p.speaks, err = d.value()
		case "capabilities":
			p.features, err = d.value()
		case "_meta":
			err = p.meta.read(d)
		default:
			p.other = true
			err = d.SkipValue()
		}
		return err
	})
}

// into gives the message what its method has.
func (p *params) into(m *message) error {
	m.asked = p.meta
	if p.kind == 0 || p.kind == 'n' {
		m.odd = true
		return nil
	}
	if p.kind != '{' {
		return fmt.Errorf(`%w: "params" must be an object`, errJSON)
	}
	field, name := "name", p.name
	switch m.method {
	case methodCallTool, methodGetPrompt:
	case methodReadResource:
		field, name = "uri", p.uri
	case methodGetTask, methodUpdateTask, methodCancelTask:
		field, name = "taskId", p.task
	default:
		name = nil
	}
	if name != nil {
		if name.Kind() != '"' {
			return fmt.Errorf("%w: params.%s must be a string", errJSON, field)
		}
		m.name, m.named = text(name), true
	}
	if m.method == methodCallTool && p.args != nil && p.args.Kind() != '{' {
		return fmt.Errorf("%w: params.arguments must be an object", errJSON)
	}
	m.version = text(p.meta.version)
	m.odd = m.odd || p.other || p.meta.odd || p.uri != nil || p.request != nil || p.speaks != nil || p.features != nil
	m.responses = json.RawMessage(p.responses)
	m.args, m.cancels, m.speaks, m.features = json.RawMessage(p.args), json.RawMessage(p.request), text(p.speaks), json.RawMessage(p.features)
	return nil
}

// meta is what the door looks at in the _meta of a request.
type meta struct {
	version  jsontext.Value // of the protocol
	client   jsontext.Value // clientInfo
	features jsontext.Value // clientCapabilities
	progress jsontext.Value // progressToken
	trace    jsontext.Value // traceparent
	odd      bool           // it is no object, or asks for what the SDK has to do
}

func (m *meta) read(d *reader) error {
	if d.PeekKind() != '{' {
		m.odd = true
		return d.SkipValue()
	}
	return d.object(func(key []byte) error {
		var err error
		switch string(key) {
		case "io.modelcontextprotocol/protocolVersion":
			m.version, err = d.value()
		case "io.modelcontextprotocol/clientInfo":
			m.client, err = d.value()
		case "io.modelcontextprotocol/clientCapabilities":
			m.features, err = d.value()
		case "io.modelcontextprotocol/logLevel":
			m.odd = true
			err = d.SkipValue()
		case "progressToken":
			m.progress, err = d.value()
		case "traceparent":
			m.trace, err = d.value()
		default:
			err = d.SkipValue()
		}
		return err
	})
}

// A reader reads JSON strictly: its decoder refuses invalid UTF-8, lone
// surrogates and keys that occur twice, however they are escaped, at every
// level. What it returns are parts of the text, and not copies.
type reader struct {
	jsontext.Decoder
	text []byte
	cuts []cut // what the decoder does not see of it
	buf  bytes.Buffer
}

// readers keep the memory of decoders, and none of the texts.
var readers = sync.Pool{New: func() any { return new(reader) }}

// maxCuts is how many cuts the memory is kept for.
const maxCuts = 64

// newReader returns a reader of text. The caller closes it.
func newReader(text []byte) *reader {
	r := readers.Get().(*reader)
	r.text = text
	var short []byte
	short, r.cuts = shorten(text, r.cuts[:0])
	r.buf = *bytes.NewBuffer(short)
	r.Reset(&r.buf)
	return r
}

// close gives the reader back. What it has returned stays good.
func (r *reader) close() {
	r.text, r.buf = nil, bytes.Buffer{}
	if cap(r.cuts) > maxCuts {
		r.cuts = nil
	}
	r.Reset(&r.buf)
	readers.Put(r)
}

// value returns the next value.
func (r *reader) value() (jsontext.Value, error) {
	v, err := r.ReadValue()
	if err != nil {
		return nil, err
	}
	end := r.InputOffset()
	from, to := r.at(end-int64(len(v))), r.at(end)
	return r.text[from:to:to], nil
}

// at returns where in the text is what the decoder takes for the offset n.
func (r *reader) at(n int64) int64 {
	left := int64(0)
	for _, c := range r.cuts {
		if n <= c.at {
			break
		}
		left = c.left
	}
	return n + left
}

// object reads one object; member has to read the value of each key, which it
// must not keep or change.
func (r *reader) object(member func(key []byte) error) error {
	if _, err := r.ReadToken(); err != nil {
		return r.plain(err)
	}
	for r.PeekKind() != '}' {
		key, err := r.ReadValue()
		if err != nil {
			return r.plain(err)
		}
		if len(key) >= 2 && bytes.IndexByte(key, '\\') < 0 {
			key = key[1 : len(key)-1]
		} else if key, err = jsontext.AppendUnquote(nil, key); err != nil {
			return r.plain(err)
		}
		if err := member(key); err != nil {
			return r.plain(err)
		}
	}
	_, err := r.ReadToken()
	if err != nil {
		return r.plain(err)
	}
	return nil
}

// plain puts a decoder's error into words for the client.
func (r *reader) plain(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, errJSON):
		return err
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("%w: a key occurs twice", errJSON)
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: %w at byte %d", errJSON, syntax.Err, r.at(syntax.ByteOffset))
	}
	return fmt.Errorf("%w: it is cut off", errJSON)
}

// checkDepth bounds nesting before any parser recurses.
func checkDepth(body []byte) error {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			n := stringEnd(body[i+1:])
			if n < 0 {
				return nil // it does not end, which the parser will find
			}
			i += n + 1
		case '{', '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("%w: nested deeper than %d levels", errJSON, maxDepth)
			}
		case '}', ']':
			depth--
		}
	}
	return nil
}

// stringEnd returns where the quote is that ends a string, or -1.
func stringEnd(s []byte) int {
	for at := 0; ; {
		n := bytes.IndexByte(s[at:], '"')
		if n < 0 {
			return -1
		}
		at += n
		escapes := 0
		for escapes < at && s[at-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return at
		}
		at++
	}
}

// text returns the string that v is, or "".
func text(v jsontext.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	if len(v) >= 2 && bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1]) // it was read as a value before
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
