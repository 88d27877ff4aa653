package governance_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

const offers = `{"server":"notes","tools":[],
  "prompts":[{"name":"review","description":"Reviews.","arguments":[{"name":"style","required":true}]}],
  "resources":[{"uri":"notes://index","name":"index","mimeType":"text/plain"}],
  "resourceTemplates":[{"uriTemplate":"notes://by-id/{id}","name":"note"}]}`

func TestOffers(t *testing.T) {
	load := func(text string) (*governance.Snapshot, error) {
		b, err := governance.LoadBundle(folder(t, map[string]string{"catalog/notes.json": text}))
		if err != nil {
			return nil, err
		}
		snap, _, err := governance.Compile(t.Context(), b, nil)
		return snap, err
	}
	snap, err := load(offers)
	require.NoError(t, err)
	var got governance.Server
	for _, s := range snap.Catalog() {
		if s.Name == "notes" {
			got = s
		}
	}
	assert.Equal(t, []governance.Prompt{{Name: "review", Description: "Reviews.", Arguments: []governance.PromptArgument{{Name: "style", Required: true}}}}, got.Prompts)
	assert.Equal(t, []governance.Resource{{URI: "notes://index", Name: "index", MIMEType: "text/plain"}}, got.Resources)
	assert.Equal(t, []governance.ResourceTemplate{{URITemplate: "notes://by-id/{id}", Name: "note"}}, got.ResourceTemplates)

	// All of it is what was reviewed, so all of it is in the snapshot's hash.
	hashes := map[string]string{snap.Hash(): "nothing"}
	for _, change := range [][2]string{
		{"Reviews.", "Reviews and obeys."}, {`"required":true`, `"required":false`}, {`"style"`, `"tone"`},
		{"notes://index", "notes://inbox"}, {"text/plain", "text/html"}, {"{id}", "{+id}"}, {`"note"`, `"memo"`},
	} {
		require.Contains(t, offers, change[0])
		snap, err := load(strings.Replace(offers, change[0], change[1], 1))
		require.NoError(t, err)
		assert.Empty(t, hashes[snap.Hash()], "%v changes nothing", change)
		hashes[snap.Hash()] = change[0]
	}

	for _, bad := range []struct{ old, new, want string }{
		{`"description":"Reviews."`, `"description":"Reviews.","text":"x"`, `catalog/notes.json:2:`},
		{`"name":"review",`, `"name":"review","name":"other",`, `duplicate`},
		{`"review"`, `"re view"`, `prompt name "re view" of server "notes" (use 1 to 96`},
		{`"arguments":[{"name":"style","required":true}]}`, `"arguments":[]},{"name":"rev1ew"}`, `look alike`},
		{"notes://index", "index", `resource "index" of server "notes" (give an absolute URI`},
		{"notes://index", "notes://in dex", `give an absolute URI`},
		{"notes://index", "notes://{id}", `give an absolute URI`},
		{"notes://index", "notes://" + strings.Repeat("x", 600), `give an absolute URI`},
		{"notes://by-id/{id}", "notes://index", `give a template`},
		{"notes://by-id/{id}", "{+anything}", `give a template`},
		{"notes://by-id/{id}", "{s}://x", `give a template`},
		{"notes://by-id/{id}", "notes://{id", `give a template`},
		{`"name":"index","mimeType":"text/plain"}`, `"name":"index"},{"uri":"notes://index"}`, `listed twice`},
	} {
		require.Contains(t, offers, bad.old)
		_, err := load(strings.Replace(offers, bad.old, bad.new, 1))
		assert.ErrorContains(t, err, bad.want, bad.new)
	}
}

func TestPinsOfOffers(t *testing.T) {
	p := governance.Prompt{Name: "a", Arguments: []governance.PromptArgument{{Name: "x"}}}
	seen := map[string]bool{}
	for _, d := range []interface{ Pin() (string, error) }{
		p,
		governance.Prompt{Name: "a"},
		governance.Prompt{Name: "a", Title: "x"},
		governance.Prompt{Name: "a", Description: "x"},
		governance.Prompt{Name: "a", Arguments: []governance.PromptArgument{{Name: "x", Required: true}}},
		governance.Resource{URI: "a:b"},
		governance.Resource{URI: "a:b", MIMEType: "x"},
		governance.ResourceTemplate{URITemplate: "a:b"},
		governance.ResourceTemplate{URITemplate: "a:b", Name: "x"},
	} {
		pin, err := d.Pin()
		require.NoError(t, err)
		assert.Regexp(t, "^sha256:[0-9a-f]{64}$", pin)
		assert.False(t, seen[pin], "%+v", d)
		seen[pin] = true
	}
	_, err := governance.Prompt{Name: "a", Description: "\xff"}.Pin()
	assert.Error(t, err)
}
