//go:build unix

package inference

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// killedHost is the environment variable that makes this test's binary the host
// that is killed: its log's folder, and the backend's address.
const killedHost = "TWINWARD_TEST_KILLED_HOST"

// beTheKilledHost serves a backend until it is killed. It prints its address and
// the key of its log.
func beTheKilledHost(t *testing.T, dir, backend string) {
	log, err := audit.Open(dir, nil)
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "test.cedar", Text: policies}}}, operator)
	require.NoError(t, err)
	router, err := NewRouter(Config{Backends: []Backend{{Name: "openai", BaseURL: backend + "/v1", Models: []string{"good"}}}}, engine, log, nil)
	require.NoError(t, err)
	door := httptest.NewServer(session(router, bot))
	fmt.Printf("%s %s\n", door.URL, log.VerifierKey())
	select {}
}

// A host that is killed in the middle of a stream leaves the call on record: its
// intent was durable before the backend was asked, it has no outcome, and who
// verifies the log is told so. The stream that the client has is not a whole one.
func TestKilledInAStreamTheCallStaysOnRecord(t *testing.T) {
	if job := os.Getenv(killedHost); job != "" {
		dir, backend, _ := strings.Cut(job, " ")
		beTheKilledHost(t, dir, backend)
	}
	for range rounds(50) {
		asked := make(chan struct{}, 1)
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				return
			}
			asked <- struct{}{}
			sse(`data: {"choices":[{"index":0,"delta":{"content":"a"}}]}`+"\n\n")(w, r)
			<-r.Context().Done()
		}))
		dir := t.TempDir()
		host := exec.Command(os.Args[0], "-test.run=^TestKilledInAStreamTheCallStaysOnRecord$")
		host.Env = append(os.Environ(), killedHost+"="+dir+" "+backend.URL)
		host.Stderr = os.Stderr
		out, err := host.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, host.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		door, key, _ := strings.Cut(strings.TrimSpace(line), " ")

		resp, err := http.Post(door+"/v1/chat/completions", "application/json", strings.NewReader(chatStream))
		require.NoError(t, err)
		stream := bufio.NewReader(resp.Body)
		first, err := stream.ReadString('\n')
		require.NoError(t, err)
		assert.Contains(t, first, `"content":"a"`)
		<-asked
		require.NoError(t, host.Process.Kill())
		_, err = io.ReadAll(stream)
		assert.Error(t, err, "the client can tell that the stream broke off")
		resp.Body.Close()
		_ = host.Wait()
		backend.Close()

		rep, err := audit.Verify(t.Context(), os.DirFS(dir), &audit.VerifyOptions{Key: key})
		require.NoError(t, err)
		require.Len(t, rep.Open, 1, "the call is open")
		again, err := audit.Open(dir, nil)
		require.NoError(t, err)
		for r, err := range again.Query(t.Context(), audit.Filter{}) {
			require.NoError(t, err)
			if r.Seq == rep.Open[0] {
				require.NotNil(t, r.Intent)
				assert.Equal(t, "bot", r.Intent.Actor.Agent)
				assert.Equal(t, `Model::"openai/good"`, r.Intent.Resource)
			}
		}
		require.NoError(t, again.Close())
	}
}
