package mcpx

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// What an upstream answers goes to the client as it was written. The SDK's own
// types would turn large integers into floats, refuse kinds of content that they
// do not know, and drop members that a later version of the protocol adds.

// parseResult reads the top level of any result. It reports false for what is no
// JSON object, or says something twice, and whether the upstream asks for input
// instead of answering.
func parseResult(method string, raw []byte) (r *rawReply, asks, ok bool) {
	r = &rawReply{method: method, bytes: int64(len(raw))}
	later := false
	seen := make(map[string]bool, 8)
	ok = eachMember(raw, func(key string, v []byte) bool {
		if seen[key] {
			return false
		}
		seen[key] = true
		switch key {
		case "_meta":
			return eachMember(v, func(key string, v []byte) bool {
				if mayPass(key) {
					r.meta = appendMember(r.meta, key, v)
				}
				return true
			}) || string(v) == "null"
		case "resultType": // is between the gateway and the upstream
			asks = asks || string(v) == `"input_required"`
			later = string(v) == `"task"`
			return true
		case "inputRequests":
			asks = asks || string(v) != "null" && method != methodGetTask
		case "ttlMs", "cacheScope": // what is read is for one actor, and each time
			if method == methodReadResource {
				return true
			}
		case "isError":
			r.isError = string(v) == "true"
		}
		r.members = appendMember(r.members, key, v)
		return true
	})
	if !ok || asks {
		return r, asks, ok
	}
	if later {
		if r.task, ok = markOf(r.members); method != methodCallTool {
			ok = false
		}
		return r, false, ok
	}
	if method == methodCallTool && !seen["content"] {
		r.members = appendMember(r.members, "content", []byte("[]"))
	}
	if method == methodReadResource {
		r.members = appendMember(r.members, "ttlMs", []byte("0"))
		r.members = appendMember(r.members, "cacheScope", []byte(`"private"`))
	}
	return r, false, true
}

// mayPass says which members of _meta go from one side to the other. Protocol
// fields are between the gateway and its peer, and nobody but the gateway speaks
// for Twinward.
func mayPass(key string) bool {
	return !strings.HasPrefix(key, "io.modelcontextprotocol/") && !strings.HasPrefix(key, "dev.twinward/")
}

// A rawResult is a rawReply on its way through the SDK, which adds to _meta who
// we are.
type rawResult struct {
	mcp.ResultBase
	reply  *rawReply
	modern bool
}

func (r *rawResult) MarshalJSON() ([]byte, error) {
	var server []byte
	if self, ok := r.Meta[mcp.MetaKeyServerInfo]; ok {
		var err error
		if server, err = json.Marshal(self); err != nil {
			return nil, err
		}
	}
	if r.modern {
		return r.reply.append(nil, r.reply.kind(), server), nil
	}
	return r.reply.append(nil, "", server), nil
}

// eachMember calls f for the members of a JSON object, with their values as they
// were written, until f returns false. It reports whether it saw all of one
// object. Strings may hold invalid UTF-8: an upstream cuts texts anywhere.
func eachMember(object []byte, f func(key string, value []byte) bool) bool {
	d := jsontext.NewDecoder(bytes.NewBuffer(object), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	if tok, err := d.ReadToken(); err != nil || tok.Kind() != '{' {
		return false
	}
	for {
		tok, err := d.ReadToken()
		if err != nil {
			return false
		}
		if tok.Kind() == '}' {
			return true
		}
		key := tok.String()
		v, err := d.ReadValue()
		if err != nil || !f(key, v) {
			return false
		}
	}
}

// appendMember appends a member to the inside of an object.
func appendMember(object []byte, key string, value []byte) []byte {
	if n := len(object); n > 0 && object[n-1] != '{' {
		object = append(object, ',')
	}
	object, _ = jsontext.AppendQuote(object, key)
	return append(append(object, ':'), value...)
}
