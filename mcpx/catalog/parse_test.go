package catalog_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx/catalog"
)

const record = `{"package":"npm:notes@1","license":"MIT","tools":[
{"name":"add","pin":"sha256:0000000000000000000000000000000000000000000000000000000000000000","inputSchema":{"type":"object"}},
{"name":"list","pin":"sha256:0000000000000000000000000000000000000000000000000000000000000000","inputSchema":{"type":"object"}}
]}`

// Each mistake is refused with its place and what to do.
func TestParseErrors(t *testing.T) {
	_, err := catalog.Parse("notes.yaml", []byte(notes), []byte(record))
	require.NoError(t, err)
	for _, try := range []struct{ old, with, want string }{
		{"id: notes", "id: Notes", `notes.yaml:2:1: id "Notes"`},
		{"vendor: Acme", "vendr: Acme", `notes.yaml:4:1: unknown field "vendr"`},
		{"vendor: Acme\n", "", "name or vendor is missing"},
		{"status: verified", "status: unverified", `notes.yaml:5:1: status "unverified"`},
		{"status: verified", "status: trusted", `notes.yaml:5:1: status "trusted"`},
		{"transport: stdio", "transport: telnet", `notes.yaml:6:1: transport "telnet"`},
		{"transport: stdio", "transport: http\nendpoint: http://example.com/mcp", `notes.yaml:7:1: endpoint "http://example.com/mcp" (want the https URL`},
		{"transport: stdio", "transport: http\nendpoint: https://me:pw@example.com/mcp", "notes.yaml:7:1: endpoint"},
		{"transport: stdio", "transport: http\nendpoint: https://example.com/mcp", "a package and an endpoint"},
		{"transport: stdio", "transport: stdio\nendpoint: https://example.com/mcp", "an endpoint with transport stdio"},
		{"registry: npm", "registry: cargo", "notes.yaml:7:1: transport stdio without a whole package"},
		{"name: notes,", "name: --eval,", "notes.yaml:7:1: an odd name or version of a package"},
		{`version: "1"`, `version: "2"`, "the record is of npm:notes@1"},
		{"type: none", "type: magic", `notes.yaml:9:5: credential: the binding is not well formed: type "magic" is not known`},
		{"type: none", "type: header", "type header needs name"},
		{"type: none", "type: bearer\n    name: x", "type bearer has no name"},
		{"type: none", "type: bearer\n    origin: https://example.com", "notes.yaml:9:5: an origin or scopes inside auth"},
		{"type: none", "type: none\n    name: x", "none with more words"},
		{"transport: stdio\npackage: {registry: npm, name: notes, version: \"1\"}\nauth:\n  - type: none", "transport: http\nendpoint: https://example.com/mcp\nauth:\n  - type: env\n    name: TOKEN", "a secret of a child process for a server that is none"},
		{"sources:", "rules: [{id: a, tools: [add], when: 'context.args.x == \"ü\"'}]\nsources:", "printable ASCII only"},
		{"type: none", "type: env\n    name: a=b", `name "a=b"`},
		{"type: none", "type: none\n  - type: bearer", "none and another way"},
		{"auth:\n  - type: none", "auth: []", "notes.yaml:8:1: no auth"},
		{"tools:", "origins: [\"HTTPS://Example.com\"]\ntools:", `notes.yaml:10:12: origin "HTTPS://Example.com" is not in canonical form`},
		{"tools:", "origins: [\"https://example.com/path\"]\ntools:", "is not in canonical form"},
		{"tools:", "origins: [\"http://example.com\"]\ntools:", "is not in canonical form"},
		{"tools:", "origins: [\"https://example.com\"]\ntools:", "notes.yaml:14:1: no source for origins"},
		{"tools:", "scopes: {admin: [x]}\ntools:", `scopes of class "admin"`},
		{"write: [add]", "write: [add, list]", `tool "list" is in the classes read and write`},
		{"write: [add]", "write: []", `the recorded tool "add" has no class`},
		{"write: [add]", "write: [add, purge]", `notes.yaml:12:16: tool "purge" was not recorded`},
		{"write: [add]", "admin: [add]", `tools of class "admin"`},
		{"write: [add]", "write: [add, 'a b']", `tool name "a b"`},
		{"sources:", "as: {purge: {/x: long}}\nsources:", `notes.yaml:13:6: as or derived for "purge"`},
		{"sources:", "rules: [{id: a, tools: [purge], when: 'true'}]\nsources:", `rule "a" permits "purge", which is no tool of class read or write`},
		{"version: \"1\"}", "version: \"1\", env: {a-b: c}}", "an odd variable"},
		{"sources:", "rules: [{id: a, tools: [add], when: ' '}]\nsources:", `rule "a" has no tools or no condition`},
		{"sources:", "rules: [{id: a, tools: [add], when: '${x}.contains(1)'}]\nsources:", `rule "a" has no example for ${x}`},
		{"sources:", "rules: [{id: a, tools: [add], when: 'true', example: {x: [y]}}]\nsources:", `rule "a" has an example for "x"`},
		{"sources:", "rules: [{id: a, tools: [add], when: 'true }; permit (principal, action, resource); //'}]\nsources:", `the condition of rule "a" is more than one expression`},
		{"sources:", "rules: [{id: a, tools: [add], when: 'true'}, {id: a, tools: [add], when: 'true'}]\nsources:", `rule id "a" is odd or taken`},
		{"sources: {", "sources: {colour: \"https://example.com\", ", `source of "colour"`},
		{`server: "https://example.com"`, `server: "http://example.com"`, `source "http://example.com"`},
		{`server: "https://example.com", `, "", "no source for server"},
	} {
		t.Run(try.with, func(t *testing.T) {
			text := strings.Replace(notes, try.old, try.with, 1)
			require.NotEqual(t, notes, text)
			c, err := catalog.Parse("notes.yaml", []byte(text), []byte(record))
			assert.Nil(t, c)
			require.ErrorIs(t, err, catalog.ErrData)
			assert.Contains(t, err.Error(), try.want)
		})
	}
}

func TestParseRecordErrors(t *testing.T) {
	for _, try := range []struct{ old, with, want string }{
		{`"license"`, `"licence"`, "notes.tools.json:1:"},
		{`"license":"MIT"`, `"license":""`, "no package, license or tools"},
		{"sha256:0", "sha256:x", `notes.tools.json:2:9: tool "add" has no pin`},
		{"sha256:0", "md5:0", `notes.tools.json:2:9: tool "add" has no pin`},
		{`"name":"add"`, `"name":"zoo"`, `tool "list" is there twice, or not in order`},
		{`"name":"add"`, `"name":"list"`, `tool "list" is there twice, or not in order`},
		{`"name":"add"`, `"name":"a/b"`, `tool name "a/b"`},
		{`"name":"add"`, `"name":"add","name":"add"`, "notes.tools.json:2:"},
		{`{"type":"object"}`, `true`, `tool "add" has no inputSchema`},
		{"\n]}", "", "notes.tools.json:3:"},
		{"\n]}", "\n]}{}", "notes.tools.json:4:"},
	} {
		t.Run(try.with, func(t *testing.T) {
			_, err := catalog.ParseRecord("notes.tools.json", []byte(strings.Replace(record, try.old, try.with, 1)))
			require.ErrorIs(t, err, catalog.ErrData)
			assert.Contains(t, err.Error(), try.want)
		})
	}
	_, err := catalog.ParseRecord("big.json", []byte(record+strings.Repeat(" ", 5<<20)))
	require.ErrorIs(t, err, catalog.ErrData)
	assert.Contains(t, err.Error(), "more than 4 MiB")
	_, err = catalog.Parse("big.yaml", []byte(notes+strings.Repeat("#\n", 1<<20)), []byte(record))
	require.ErrorIs(t, err, catalog.ErrData)
	assert.Contains(t, err.Error(), "keep it under 128 KiB")
}

// Whatever is accepted is whole: its starter policies can be written, and each
// recorded tool has a class.
func FuzzParse(f *testing.F) {
	f.Add([]byte(notes), []byte(record))
	f.Add([]byte(strings.Replace(notes, "sources:", "rules: [{id: a, tools: [add], when: 'under(context.derived.p, ${x})', example: {x: [y]}}]\nsources:", 1)), []byte(record))
	for _, id := range []string{"memory", "slack"} {
		text, err := os.ReadFile(filepath.Join("data", id+".yaml"))
		require.NoError(f, err)
		tools, err := os.ReadFile(filepath.Join("data", id+".tools.json"))
		require.NoError(f, err)
		f.Add(text, tools)
	}
	f.Fuzz(func(t *testing.T, text, record []byte) {
		c, err := catalog.Parse("f.yaml", text, record)
		if err != nil {
			require.ErrorIs(t, err, catalog.ErrData)
			return
		}
		if r := c.Record(); r != nil {
			for _, tool := range r.Tools {
				_, ok := c.Class(tool.Name)
				require.True(t, ok)
			}
			again, err := r.JSON()
			require.NoError(t, err)
			_, err = catalog.ParseRecord("again", again)
			require.NoError(t, err)
		}
		for _, values := range examples(c) {
			if strings.ContainsAny(strings.Join(values, ""), ";@") {
				return // inside quotes, where the count below does not look
			}
		}
		policies, err := c.Starter("p", &catalog.StarterOptions{Values: examples(c)})
		if err == nil {
			require.Equal(t, strings.Count(policies.Text, ";"), strings.Count(policies.Text, "@id("))
		}
	})
}
