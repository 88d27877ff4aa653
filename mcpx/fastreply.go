package mcpx

import (
	"bytes"
	"encoding/json"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A rawReply is a result as the upstream wrote it, less what may not pass.
type rawReply struct {
	method  string // "" is tools/call
	members []byte // of the result, separated by commas
	meta    []byte // what passes of _meta, separated by commas
	isError bool
	asks    bool  // it is not the result, but what is needed for one
	bytes   int64 // of what the upstream sent
}

// kind is the resultType of 2026-07-28, as a member.
func (r *rawReply) kind() string {
	if r.asks {
		return `"resultType":"input_required",`
	}
	return resultType
}

func (r *rawReply) failed() bool          { return r.isError }
func (r *rawReply) size() int64           { return r.bytes }
func (r *rawReply) text() ([]byte, error) { return r.append(nil, "", nil), nil }

func (r *rawReply) result() (mcp.Result, error) {
	text, _ := r.text()
	var res mcp.Result
	switch r.method {
	case methodGetPrompt:
		res = new(mcp.GetPromptResult)
	case methodReadResource:
		res = new(mcp.ReadResourceResult)
	case methodComplete:
		res = new(mcp.CompleteResult)
	default:
		t := new(mcp.CallToolResult)
		if err := t.UnmarshalJSON(text); err != nil {
			return nil, err
		}
		eachMember(text, func(key string, v []byte) bool {
			if key == "structuredContent" && string(v) != "null" {
				t.StructuredContent = json.RawMessage(bytes.Clone(v)) // numbers stay as they were written
			}
			return true
		})
		return t, nil
	}
	return res, json.Unmarshal(text, res)
}

// append writes the result, with more members first and with who the server is
// in _meta, unless server is nil.
func (r *rawReply) append(b []byte, first string, server []byte) []byte {
	b = append(append(b, '{'), first...)
	if len(r.meta) > 0 || server != nil {
		b = append(b, `"_meta":{`...)
		b = append(b, r.meta...)
		if server != nil {
			if len(r.meta) > 0 {
				b = append(b, ',')
			}
			b = append(append(b, `"`+mcp.MetaKeyServerInfo+`":`...), server...)
		}
		b = append(b, '}')
		if len(r.members) > 0 {
			b = append(b, ',')
		}
	}
	return append(append(b, r.members...), '}')
}

// readResult reads an ordinary result: whole, and all of its content text. Any
// other is for the SDK to read.
func readResult(raw []byte) (*rawReply, bool) {
	r := &rawReply{bytes: int64(len(raw))}
	d := newReader(raw)
	if d.PeekKind() != '{' {
		return nil, false
	}
	var content, structured, failed jsontext.Value
	odd := false
	err := d.object(func(key string) error {
		var err error
		switch key {
		case "content":
			content, err = d.texts(&odd)
		case "structuredContent":
			structured, err = d.value()
		case "isError":
			failed, err = d.value()
			odd = odd || failed.Kind() != 't' && failed.Kind() != 'f'
		case "_meta":
			err = r.readMeta(d, &odd)
		case "resultType":
			var kind jsontext.Value
			kind, err = d.value()
			odd = odd || text(kind) != "complete"
		case "inputRequests", "requestState":
			odd = true
			err = d.SkipValue()
		default: // of a version of the protocol that is not known here
			odd = true
			err = d.SkipValue()
		}
		return err
	})
	if err != nil || odd {
		return nil, false
	}
	if content == nil {
		content = jsontext.Value("[]")
	}
	r.isError = failed.Kind() == 't'
	n := len(content) + len(structured) + 64
	r.members = append(append(make([]byte, 0, n), `"content":`...), content...)
	if structured != nil && structured.Kind() != 'n' {
		r.members = append(append(r.members, `,"structuredContent":`...), structured...)
	}
	if r.isError {
		r.members = append(r.members, `,"isError":true`...)
	}
	return r, true
}

// texts reads a list of plain texts; any other is odd.
func (d *reader) texts(odd *bool) (jsontext.Value, error) {
	if d.PeekKind() != '[' {
		*odd = true
		return nil, d.SkipValue()
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	start := int(d.InputOffset()) - 1
	for d.PeekKind() == '{' && !*odd {
		var kind, said jsontext.Value
		err := d.object(func(key string) error {
			var err error
			switch key {
			case "type":
				kind, err = d.value()
			case "text":
				said, err = d.value()
			default:
				*odd = true
				err = d.SkipValue()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		*odd = *odd || text(kind) != "text" || said.Kind() != '"'
	}
	if *odd {
		return nil, errJSON // the rest is of no interest
	}
	if d.PeekKind() != ']' {
		*odd = true
		return nil, errJSON
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	return d.text[start:d.InputOffset()], nil
}

// readMeta reads what passes of a result's _meta. Protocol fields are between
// the gateway and the upstream, and nobody but the gateway speaks for Twinward.
func (r *rawReply) readMeta(d *reader, odd *bool) error {
	if d.PeekKind() != '{' {
		*odd = true
		return d.SkipValue()
	}
	return d.object(func(key string) error {
		v, err := d.value()
		if err != nil || !mayPass(key) {
			return err
		}
		if len(r.meta) > 0 {
			r.meta = append(r.meta, ',')
		}
		name, err := jsontext.AppendQuote(nil, key)
		r.meta = append(append(append(r.meta, name...), ':'), v...)
		return err
	})
}

// pass gives back an upstream's result, scrubbed. What is not ordinary about it
// is read by [parseResult].
func (g *Gateway) pass(p *passage, f *flight, u *Upstream, raw json.RawMessage) (reply, error) {
	if r, ok := readResult(raw); ok {
		if _, found := g.redact(p.c, raw); len(found) == 0 {
			f.out.Bytes = r.bytes
			return r, nil
		}
	}
	p.c.expect(methodCallTool, nil)
	p.c.mu.Lock()
	p.c.result = raw
	p.c.mu.Unlock()
	return g.clean(p.ctx, f, p.c)
}
