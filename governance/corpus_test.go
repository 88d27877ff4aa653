package governance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// corpusServers reads testdata/tools: what servers from npm answer to
// tools/list.
func corpusServers(t testing.TB) (servers []Server) {
	t.Helper()
	files, err := filepath.Glob("testdata/tools/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		var f struct {
			Source, License string
			Tools           []ToolDefinition
		}
		require.NoError(t, json.Unmarshal(text, &f), name)
		require.NotEmpty(t, f.License, name)
		require.Contains(t, f.Source, "npm:", name)
		s := Server{Name: filepath.Base(name[:len(name)-len(".json")])}
		if len(s.Name) > 32 {
			s.Name = s.Name[len(s.Name)-32:]
		}
		for _, d := range f.Tools {
			s.Tools = append(s.Tools, Tool{ToolDefinition: d, Class: Write})
		}
		servers = append(servers, s)
	}
	return servers
}

// TestCorpus: the tools of real servers compile together, and nearly every
// argument has a type of its own.
func TestCorpus(t *testing.T) {
	servers := corpusServers(t)
	kinds := map[argument.Kind]int{}
	var text []string
	nodes := 0
	var count func(at *argument.Type, path string)
	count = func(at *argument.Type, path string) {
		nodes++
		kinds[at.Kind]++
		if at.Kind == argument.KindText {
			text = append(text, path)
		}
		fields := at.Fields
		switch at.Kind {
		case argument.KindSet:
			count(at.Elem, path+"/*")
		case argument.KindMap:
			fields = nil // no nodes of the schema
		case argument.KindColumns: // its fields are the same nodes again
			fields, path = at.Elem.Fields, path+"/*"
			if at.Elem.Kind == argument.KindMap {
				fields = nil
			}
		}
		for _, f := range fields {
			count(f.Typ, path+"/"+f.Name)
		}
	}
	tools := 0
	for _, s := range servers {
		for _, d := range s.Tools {
			at, _, err := argument.NewType(d.InputSchema, d.As)
			require.NoError(t, err, "%s %s", s.Name, d.Name)
			for _, f := range at.Fields {
				count(f.Typ, s.Name+" "+d.Name+" /"+f.Name)
			}
			tools++
		}
	}
	typed := float64(nodes-kinds[argument.KindText]) / float64(nodes)
	t.Logf("%d servers, %d tools, %d nodes, %.2f %% typed: %v", len(servers), tools, nodes, 100*typed, kinds)
	for _, p := range text {
		t.Log("as JSON text: ", p)
	}
	assert.GreaterOrEqual(t, typed, 0.98)

	_, rep, err := Compile(t.Context(), Bundle{Catalog: servers}, nil)
	require.NoError(t, err)
	assert.Equal(t, tools, rep.Tools)
	for _, f := range rep.Findings {
		if f.Severity != SeverityInfo {
			t.Log(f)
		}
	}
}
