package attack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	goodChannel = "#engineering"
	mostPaid    = 1000
)

// Tools are the definitions of an [Upstream]'s tools, in the form of a reply to
// tools/list. Policy in front of it lets an agent post to #engineering, pay at
// most 1000, and read.
var Tools = []string{
	`{"name":"post","description":"Posts a message.","inputSchema":{"type":"object","properties":{"channel":{"type":"string"},"text":{"type":"string"},"data":{}},"required":["channel","text"],"additionalProperties":false},"annotations":{"destructiveHint":false}}`,
	`{"name":"pay","description":"Pays an amount.","inputSchema":{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"],"additionalProperties":false},"annotations":{"destructiveHint":false}}`,
	`{"name":"read","description":"Reads a note.","inputSchema":{"type":"object","additionalProperties":false},"annotations":{"readOnlyHint":true}}`,
	`{"name":"erase","description":"Erases.","inputSchema":{"type":"object","additionalProperties":true}}`,
}

// An Upstream is an MCP server that notes each call byte for byte, and that a
// case can tell to misbehave. It serves the older era of the protocol without
// sessions, and the newer one if Modern is set before it serves. It is safe for
// concurrent use.
type Upstream struct {
	Modern bool

	mu     sync.Mutex
	calls  []Call
	seen   bytes.Buffer
	behave func(w http.ResponseWriter, m Message) bool
}

// A Call is one tools/call as it arrived.
type Call struct {
	Tool      string
	Arguments json.RawMessage
	Header    http.Header
	Body      []byte
}

// A Message is a request as a misbehaving upstream sees it.
type Message struct {
	Method, Tool string
	ID           json.RawMessage
	Token        json.RawMessage // progressToken
	Header       http.Header
}

// Calls returns what arrived, oldest first.
func (u *Upstream) Calls() []Call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls)
}

// Seen returns all headers and bodies that arrived.
func (u *Upstream) Seen() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen.String()
}

// Behave has f answer from now on where it returns true. Nil behaves well.
func (u *Upstream) Behave(f func(w http.ResponseWriter, m Message) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.behave = f
}

// maxSeen bounds what is kept of one request and of all.
const maxSeen = 8 << 20

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxSeen))
	if err != nil {
		return
	}
	m, behave := u.take(r, body)
	if behave != nil && behave(w, m) {
		return
	}
	switch m.Method {
	case "initialize":
		Reply(w, m.ID, `{"protocolVersion":"`+Legacy+`","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"attack","version":"1"}}`)
	case "server/discover":
		if !u.Modern {
			http.Error(w, "not here", http.StatusNotFound)
			return
		}
		Reply(w, m.ID, `{"resultType":"complete","supportedVersions":["`+Modern+`"],"capabilities":{"tools":{"listChanged":true}},"ttlMs":0,"cacheScope":"private"}`)
	case "tools/list":
		Reply(w, m.ID, List(Tools...))
	case "tools/call":
		Reply(w, m.ID, text("done: "+m.Tool))
	case "ping":
		Reply(w, m.ID, `{}`)
	default:
		if m.ID == nil {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, m.ID)
	}
}

// Reply answers a request with a result.
func Reply(w http.ResponseWriter, id json.RawMessage, result string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

// List is the result of tools/list.
func List(tools ...string) string {
	return `{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[` + strings.Join(tools, ",") + `]}`
}

func text(s string) string {
	return `{"resultType":"complete","content":[{"type":"text","text":` + quote(s) + `}]}`
}

// take notes a request. It reads it as the most lenient parser would: what is a
// call in any reading is one.
func (u *Upstream) take(r *http.Request, body []byte) (Message, func(http.ResponseWriter, Message) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen.Len() < maxSeen {
		r.Header.Write(&u.seen)
		u.seen.Write(body)
	}
	m := Message{Header: r.Header.Clone()}
	all := readings(body)
	params := readings(last(all["params"]))
	m.ID, m.Method, m.Tool = last(all["id"]), word(last(all["method"])), word(last(params["name"]))
	m.Token = last(readings(last(params["_meta"]))["progressToken"])
	if slices.ContainsFunc(all["method"], func(v json.RawMessage) bool { return word(v) == "tools/call" }) {
		u.calls = append(u.calls, Call{m.Tool, last(params["arguments"]), m.Header, body})
	}
	return m, u.behave
}

// Forbidden says why any JSON parser would take a call for one that policy
// forbids, or is empty.
func (c Call) Forbidden() string {
	all := readings(c.Body)
	if !json.Valid(c.Body) || len(all) == 0 {
		return "what is not JSON: " + clip(string(c.Body), 80)
	}
	for _, params := range all["params"] {
		in := readings(params)
		for _, name := range in["name"] {
			if n := word(name); n != "post" && n != "pay" && n != "read" {
				return "a call of " + clip(string(name), 80)
			}
		}
		for _, args := range in["arguments"] {
			if why := forbiddenArgs(c.Tool, args); why != "" {
				return why
			}
		}
	}
	return ""
}

func forbiddenArgs(tool string, args json.RawMessage) string {
	in := readings(args)
	if tool == "post" {
		if len(in["channel"]) != 1 || word(in["channel"][0]) != goodChannel {
			return "post with " + clip(string(args), 80)
		}
		return ""
	}
	for _, v := range in["amount"] {
		n, ok := new(big.Rat).SetString(string(v))
		if len(v) > 32 || !ok || !n.IsInt() || n.Cmp(big.NewRat(mostPaid, 1)) > 0 {
			return "pay with " + clip(string(args), 80)
		}
	}
	return ""
}

// readings are all the values that a parser could find under a key of an object:
// of keys that occur twice, and of keys that differ in case only.
func readings(object []byte) map[string][]json.RawMessage {
	d := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if tok, err := d.ReadToken(); err != nil || tok.Kind() != '{' {
		return nil
	}
	all := map[string][]json.RawMessage{}
	for d.PeekKind() == '"' {
		tok, err := d.ReadToken()
		if err != nil {
			break
		}
		key := tok.String()
		v, err := d.ReadValue()
		if err != nil {
			break
		}
		for _, known := range []string{"method", "params", "id", "name", "arguments", "channel", "amount", "_meta", "progressToken"} {
			if strings.EqualFold(known, key) {
				key = known
			}
		}
		all[key] = append(all[key], json.RawMessage(bytes.Clone(v)))
	}
	return all
}

func last(all []json.RawMessage) json.RawMessage {
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

func word(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}
