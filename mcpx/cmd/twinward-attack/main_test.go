package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx/internal/attack"
)

// A proxy that lets everything through, in front of the command's own upstream.
func proxy(t *testing.T) (endpoint string, at *url.URL) {
	at = &url.URL{Scheme: "http"}
	srv := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) }})
	t.Cleanup(srv.Close)
	return srv.URL, at
}

// pressing Enter is what happens once the upstream has said where it is.
type pressing struct {
	at   *url.URL
	said chan struct{}
	bytes.Buffer
}

func (p *pressing) Write(b []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(b), "http://"); ok {
		p.at.Host, _, _ = strings.Cut(rest, ". ")
		close(p.said)
	}
	return p.Buffer.Write(b)
}

func (p *pressing) Read(b []byte) (int, error) {
	<-p.said
	return copy(b, "\n"), nil
}

// What lets everything through is told so.
func TestSees(t *testing.T) {
	endpoint, at := proxy(t)
	stderr := &pressing{at: at, said: make(chan struct{})}
	file := filepath.Join(t.TempDir(), "attack.yaml")
	require.NoError(t, os.WriteFile(file, []byte("url: "+endpoint+"\nupstream: 127.0.0.1:0\nonly: A1,A4,A7,S1\n"), 0o600))
	var stdout bytes.Buffer
	code := run(t.Context(), []string{"-config", file, "-json", "-only", "A1,A7,H4"}, stderr, &stdout, stderr)
	require.Equal(t, exitFound, code, stderr.String())
	var got struct {
		Summary attack.Summary
		Results []attack.Result
	}
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &got), stdout.String())
	assert.Zero(t, got.Summary.Unclear)
	assert.Greater(t, got.Summary.Fail, 20)
	rows := map[string]bool{}
	for _, r := range got.Results {
		rows[r.ID] = true
		if r.Case == "the forbidden tool, plain" || r.ID == "H4" || r.Case == "argument twice, the bad one last" {
			assert.Equal(t, attack.Fail, r.Verdict, r.Case)
		}
	}
	assert.Equal(t, map[string]bool{"A1": true, "A7": true, "H4": true}, rows)
}

// Without an upstream there are only answers.
func TestAnswersOnly(t *testing.T) {
	strict := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if strings.Contains(string(b), "secret") || strings.HasPrefix(string(b), "[") {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		attack.Reply(w, json.RawMessage("1"), `{"content":[]}`)
	}))
	defer strict.Close()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"-url", strict.URL, "-tool", "echo", "-args", `{"to":"me"}`, "-key", "to", "-bad", "secret", "-forbidden", "secret", "-only", "A1,A2,A3,M2"}, nil, &stdout, &stderr)
	assert.Equal(t, exitFound, code, stderr.String())
	assert.Contains(t, stdout.String(), "The upstream was not seen")
	assert.Regexp(t, `A1 +argument twice, the bad one first +2025-11-25 +refused +pass`, stdout.String())
	assert.Regexp(t, `A1 +id twice +2025-11-25 +refused +FAIL`, stdout.String())
	assert.Regexp(t, `A2 +Arguments +2025-11-25 +harmless +unclear`, stdout.String())
	assert.Regexp(t, `A3 .* skipped`, stdout.String())
	assert.Contains(t, stdout.String(), "in audit\n")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"-url", "http://x"}, {"-nothing"}, {"-config", "/nowhere"}, {"-url", "x", "-tool", "y", "z"}} {
		var out bytes.Buffer
		assert.Equal(t, exitUsage, run(t.Context(), args, nil, &out, &out), args)
		assert.NotEmpty(t, out.String())
	}
	var out bytes.Buffer
	assert.Equal(t, exitOK, run(t.Context(), []string{"-tools"}, nil, &out, &out))
	assert.Contains(t, out.String(), `"name":"erase"`)
	dead := httptest.NewServer(nil)
	dead.Close()
	out.Reset()
	assert.Equal(t, exitFound, run(t.Context(), []string{"-url", dead.URL, "-tool", "x"}, nil, &out, &out))
	assert.Contains(t, out.String(), "the permitted call")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, exitFound, run(ctx, []string{"-url", dead.URL, "-upstream", "127.0.0.1:0", "-wait", "1h"}, nil, &out, &out))
}
