//go:build linux && amd64

package agents

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/inference"
)

// startEngine serves a tiny model of random weights with a real engine, llama.cpp
// for Node, and returns where.
func startEngine(t *testing.T, key string) string {
	t.Helper()
	h := &house{t: t, folder: needs(t)}
	model := filepath.Join(t.TempDir(), "tiny.gguf")
	require.NoError(t, os.WriteFile(model, tinyModel(1), 0o600))
	h.program("../engine/node_modules/node-llama-cpp/package.json")
	cmd := exec.Command(h.program(node), "testdata/engine/server.mjs", filepath.Join(h.folder, "engine", "node_modules"), model)
	cmd.Env = []string{"ENGINE_KEY=" + key, "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	cmd.Stderr = os.Stderr
	life, err := cmd.StdinPipe() // it ends with this
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		life.Close()
		_ = cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "the engine does not start")
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}

// A real engine thinks behind the router, which counts as the engine does, whether
// the answer streams or not and whether the client asks for the count or not.
func TestEngine(t *testing.T) {
	var origin string
	h := newHouse(t, func(key string) string {
		origin = startEngine(t, key)
		return origin
	}, inference.Backend{BaseURL: "/v1", Models: []string{"tiny"}})
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.router.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), audit.Actor{Agent: "bot"})))
	}))
	defer door.Close()

	type counts struct{ Input, Output int64 }
	counted := func() (c counts) {
		resp, err := http.Get(origin + "/counts")
		require.NoError(t, err)
		defer resp.Body.Close()
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&c))
		return c
	}
	var said [3]string
	for i, more := range []string{`"stream":false`, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`} {
		before := counted()
		resp, err := http.Post(door.URL+"/v1/chat/completions", "application/json", strings.NewReader(
			fmt.Sprintf(`{"model":"tiny","max_tokens":%d,"messages":[{"role":"user","content":"What is good today?"}],%s}`, 40, more)))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, "%s\n%s", body, h.record())
		said[i] = text(t, string(body))
		assert.Equal(t, i != 1, strings.Contains(string(body), `"usage"`), "the client gets the count when it asked for it")
		assert.NotContains(t, string(body), h.key)

		after := counted()
		var out audit.Outcome
		for _, r := range h.log.Records() {
			if r.Outcome != nil {
				out = *r.Outcome // the last
			}
		}
		require.NotNil(t, out.Usage)
		assert.Equal(t, audit.StatusOK, out.Status)
		assert.Equal(t, after.Input-before.Input, out.Usage.Input, "as the engine counts")
		assert.Equal(t, after.Output-before.Output, out.Usage.Output, "as the engine counts")
		assert.EqualValues(t, 40, out.Usage.Output)
		assert.True(t, out.Usage.Final)
	}
	assert.NotEmpty(t, said[0])
	assert.Equal(t, said[0], said[1], "it says the same to whom it streams")
	assert.Equal(t, said[1], said[2])
}

// text puts together what a model said, in one piece or streamed.
func text(t *testing.T, body string) string {
	t.Helper()
	type part struct{ Content string }
	var b strings.Builder
	for line := range strings.Lines(body) {
		line = strings.TrimPrefix(line, "data: ")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "[DONE]") {
			continue
		}
		var said struct {
			Choices []struct{ Delta, Message part }
		}
		require.NoError(t, json.Unmarshal([]byte(line), &said), line)
		for _, c := range said.Choices {
			b.WriteString(c.Delta.Content + c.Message.Content)
		}
	}
	return b.String()
}
