package mcpx

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A form's schema that is none asks for nothing, whatever a client reads in it.
func TestFormsWithoutASchema(t *testing.T) {
	for schema, want := range map[string]string{
		`null`: "",
		`{"type":"object","properties":{"name":{"type":"string","title":"Your name"}}}`:    "",
		`{"type":"object","properties":{"password":{"type":"string"}}}`:                    "password",
		`{"type":"object","properties":{"password":{"type":"string"},"x":{"title":1}}}`:    "schema",
		`{"type":"object","properties":{"password":{"type":"string"},"x":[]}}`:             "schema",
		`{"type":"object","properties":[{"name":"password"}]}`:                             "schema",
		`[{"properties":{"password":{"type":"string"}}}]`:                                  "schema",
		`{"properties":{"a":{"title":"x"}},"Properties":{"passphrase":{"type":"string"}}}`: "passphrase",
	} {
		assert.Equal(t, want, secretField(json.RawMessage(schema)), schema)
	}
}

// Where policy blanks or bounds answers, progress is numbers, and nothing in
// words.
func TestProgressInWords(t *testing.T) {
	m := &messages{token: "t", theirs: json.RawMessage(`7`), level: -1, brief: true, clean: func(b []byte) []byte { return b }}
	out, ok := m.pass(notifyProgress, json.RawMessage(`{"progressToken":"t","progress":1,"total":2.0,"message":"secret","note":"secret","_meta":{"a":"secret"}}`))
	require.True(t, ok)
	assert.JSONEq(t, `{"progressToken":7,"progress":1,"total":2.0}`, string(out))
	out, _ = m.pass(notifyProgress, json.RawMessage(`{"progressToken":"t","progress":"secret","total":["secret"]}`))
	assert.NotContains(t, string(out), "secret")
}

// A URI with dots in its path belongs to nobody, unless it was approved as it is.
func TestURIsWithDots(t *testing.T) {
	o, errs := newOffers([]governance.Server{{
		Name: "files", Resources: []governance.Resource{{URI: "file:///pub/./a"}},
		ResourceTemplates: []governance.ResourceTemplate{{URITemplate: "file:///{+path}"}},
	}}, map[string]*Upstream{"files": {Name: "files"}})
	require.Empty(t, errs)
	for uri, server := range map[string]string{
		"file:///pub/a":               "files",
		"file:///pub/.a/..b/c...":     "files",
		"file:///pub/./a":             "files",
		"file:///pub/../secret":       "",
		"file:///pub/%2e%2E/secret":   "",
		"file:///pub/.%2e%2fsecret":   "",
		`file:///pub/..%5csecret`:     "",
		"file:///pub/..":              "",
		"file:///./secret":            "",
		"file:///pub/..?x":            "",
		"file:///pub/%2E%2e#fragment": "",
	} {
		got, _ := o.route(kindResource, uri)
		assert.Equal(t, server, got, uri)
	}
}

// An event is one line, however the upstream has laid out its JSON.
func TestEventsAreLines(t *testing.T) {
	w := httptest.NewRecorder()
	a := &answer{w: w, id: json.RawMessage(`1`)}
	a.notify([]byte(`{}`))
	a.finish("x", &rawReply{members: []byte("\"content\":[\n\n1,\r2,\r\n\"\\n\"]")}, nil)
	var lines []string
	for _, line := range strings.FieldsFunc(w.Body.String(), func(r rune) bool { return r == '\r' || r == '\n' }) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			assert.True(t, json.Valid([]byte(data)), data)
			lines = append(lines, data)
		}
	}
	require.Len(t, lines, 2)
	assert.Contains(t, lines[1], `"content":[1,2,"\n"]`)
}

// A panicker is a reply that cannot be looked at.
type panicker struct{ reply }

func (panicker) size() int64 { panic("inside") }

// What panics while an answer is read is an outcome too.
func TestAnswerThatPanics(t *testing.T) {
	g := &governor{logger: slog.New(slog.DiscardHandler)}
	r, err := g.answered(context.Background(), &flight{}, panicker{}, nil, new(audit.Outcome))
	assert.Nil(t, r)
	fail, ok := asFailure(err)
	require.True(t, ok)
	assert.Equal(t, audit.GuardPanic, fail.code)
}

// However many tools have drifted, what is known of one is what it is now.
func TestDriftOfTooMany(t *testing.T) {
	var d drifts
	live := func(text string) *mcp.Tool {
		return &mcp.Tool{Name: "x", Description: text, InputSchema: json.RawMessage(`{}`)}
	}
	for i := range maxDrifts + 1 {
		d.note("s", fmt.Sprint(i), governance.ToolDefinition{}, "", live("harmless"))
	}
	require.Len(t, d.now, maxDrifts)
	d.note("s", "0", governance.ToolDefinition{}, "", live("harmful"))
	assert.Equal(t, "harmful", d.now["s__0"].Definition.Description)
}
