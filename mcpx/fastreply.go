package mcpx

import (
	"bytes"
	"encoding/json"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A rawReply is a result as the upstream wrote it, less what may not pass.
type rawReply struct {
	method  string // "" is tools/call
	members []byte // of the result, separated by commas
	meta    []byte // what passes of _meta, separated by commas
	isError bool
	asks    bool      // it is not the result, but what is needed for one
	task    *taskMark // it is not the result, but where that will be
	bytes   int64     // of what the upstream sent
}

// kind is the resultType of 2026-07-28, as a member.
func (r *rawReply) kind() string {
	if r.asks {
		return `"resultType":"input_required",`
	}
	if r.task != nil {
		return `"resultType":"task",`
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
