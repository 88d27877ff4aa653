package mcpx

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

// A parser of an upstream, as there are: the first of two members with one name
// counts, or the last, or names are the same in whatever case.
type parser struct {
	name  string
	first bool
	folds bool
}

var parsers = []parser{{"the first counts", true, false}, {"the last counts", false, false}, {"case does not count", false, true}, {"the first counts, and case does not", true, true}}

// member reads a member of an object as that parser does.
func (p parser) member(t *testing.T, object []byte, name string) []byte {
	t.Helper()
	d := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	tok, err := d.ReadToken()
	require.NoError(t, err)
	require.EqualValues(t, '{', tok.Kind())
	var got []byte
	for {
		tok, err := d.ReadToken()
		require.NoError(t, err)
		if tok.Kind() == '}' {
			return got
		}
		key := tok.String()
		v, err := d.ReadValue()
		require.NoError(t, err)
		if (key == name || p.folds && strings.EqualFold(key, name)) && (got == nil || !p.first) {
			got = bytes.Clone(v)
		}
	}
}

// all reads every member that an object has for that parser, and what is below.
func (p parser) all(t *testing.T, v []byte) any {
	t.Helper()
	v = bytes.TrimSpace(v)
	if len(v) == 0 || v[0] != '{' {
		return string(v)
	}
	var names []string
	for name := range jsonNames(t, v) {
		names = append(names, name)
	}
	slices.Sort(names)
	out := map[string]any{}
	for _, name := range names {
		out[name] = p.all(t, p.member(t, v, name))
	}
	return out
}

func jsonNames(t *testing.T, object []byte) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	require.True(t, eachMember(object, func(key string, _ []byte) bool {
		names[key] = true
		return true
	}))
	return names
}

// FuzzSplice: what policy saw is what the upstream reads, whichever way it reads
// JSON. Of the arguments that holds for names that differ in more than case:
// those that do not are two arguments, of which policy sees both.
func FuzzSplice(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slack__post","arguments":{"channel":"#eng"}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__b","Name":"a__c","arguments":{"a":1},"Arguments":{"a":2}}}`,
		`{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"_meta":{"progressToken":"t","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},"arguments":{"a":{"\u0061":1},"A":2,"":3},"name":"a__\"},\"name\":\"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__\u2028\u0000","arguments": {} }}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__b","arguments":{"a":1,"\u0061":2}}}`,
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, newer bool) {
		m, err := scan(body)
		if err != nil || m.method != methodCallTool || !m.named || m.odd || !m.asked.ordinary() {
			return
		}
		_, tool, ok := strings.Cut(m.name, "__")
		if !ok {
			return
		}
		w := newWire()
		w.version.Store("2025-06-18")
		if newer {
			w.version.Store(modernVersion)
		}
		args := m.args
		if len(args) == 0 {
			args = json.RawMessage("{}")
		}
		x := &exchange{
			id: firstID + 1, answer: &answer{token: json.RawMessage(m.asked.progress)}, p: &passage{s: &session{wire: w}},
			f: &flight{tool: tool, args: args, decision: governance.Decision{}},
		}
		x.f.trace = traceFrom(text(m.asked.trace), nil)
		sent := x.body()
		require.True(t, jsontext.Value(sent).IsValid(), "%s", sent)
		require.True(t, bytes.HasSuffix(sent, slices.Concat([]byte(`,"arguments":`), args, []byte("}}"))), "%s", sent)
		for _, p := range parsers {
			require.Equal(t, `"tools/call"`, string(p.member(t, sent, "method")), p.name)
			params := p.member(t, sent, "params")
			var got string
			require.NoError(t, json.Unmarshal(p.member(t, params, "name"), &got))
			require.Equal(t, tool, got, p.name)
			require.Equal(t, string(bytes.TrimSpace(args)), string(p.member(t, params, "arguments")), p.name)
			if !p.folds {
				require.Equal(t, parsers[1].all(t, args), p.all(t, p.member(t, params, "arguments")), p.name)
			}
		}
	})
}

// FuzzEvents: a stream of events never becomes more than it was, and what it
// says under our token is one line of JSON under the client's.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("event: message\ndata: {\"progressToken\":1099511627777,\ndata: \"progress\":1,\"message\":\"a\\nb\"}\n\n"))
	f.Add([]byte(": x\r\nid: 1\r\ndata:\r\n\r\nevent: other\ndata: 1\n\ndata: 2"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		e := newEvents(bytes.NewReader(stream))
		total := 0
		for {
			data, err := e.next()
			if err != nil {
				break
			}
			total += len(data)
			require.NotEmpty(t, data)
			if out, ok := retarget(data, firstID+1, json.RawMessage(`"theirs"`)); ok {
				require.True(t, json.Valid(out), "%s", out)
				require.NotContains(t, string(out), "\n")
				require.Contains(t, string(out), `"progressToken":"theirs"`)
			}
		}
		require.LessOrEqual(t, total, len(stream))
	})
}
