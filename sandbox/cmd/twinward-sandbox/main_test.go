//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox"
)

// A lockedBuffer is written to by the program and the command at one time, as
// standard error is.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// invoke runs the command and returns its exit status, its output and what it said
// besides, its error last.
func invoke(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e lockedBuffer
	code, err := command(t.Context(), args, strings.NewReader(in), &o, &e)
	if err != nil {
		fmt.Fprintln(&e, err)
	}
	return code, o.String(), e.String()
}

func needSandbox(t *testing.T) {
	t.Helper()
	if missing := sandbox.Probe().Missing; len(missing) > 0 && os.Getenv("TWINWARD_FULL") == "1" {
		t.Fatalf("this system lacks %v", missing)
	} else if len(missing) > 0 {
		t.Skipf("this system lacks %v", missing)
	}
}

func TestRun(t *testing.T) {
	needSandbox(t)
	code, out, errs := invoke(t, "typed", "run", "--", "sh", "-c", "cat; pwd; echo problem >&2; exit 7")
	assert.Equal(t, 7, code)
	assert.Equal(t, "typed/sandbox\n", out)
	assert.Contains(t, errs, "problem\n")
	assert.Regexp(t, `sandbox: \d+ layers, user [1-9]\d* outside, policy sha256:`, errs)
	assert.Contains(t, errs, "sandbox: 0 connections, 0 refusals\n")

	code, _, _ = invoke(t, "", "run", "-quiet", "--", "sh", "-c", "kill -TERM $$")
	assert.Equal(t, 128+15, code)
	code, _, errs = invoke(t, "", "run", "-quiet", "--", "no-such-program")
	assert.Equal(t, notFound, code)
	assert.Contains(t, errs, "no such program")
}

func TestRunShowsAndKeepsWhatIsReached(t *testing.T) {
	needSandbox(t)
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "model of ", r.URL.Path) }))
	defer model.Close()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/policy.yaml", []byte("version: 1\nservices: [inference.local]\n"), 0o600))
	work := filepath.Join(dir, "work")
	require.NoError(t, os.Mkdir(work, 0o755))
	code, out, errs := invoke(t, "", "run", "-policy", dir+"/policy.yaml", "-preset", "slack,jira", "-serve", "inference.local="+model.URL,
		"-workspace", work, "-log", dir+"/log", "--", "bash", "-c", `
			exec 3<>/dev/tcp/inference.local/80
			printf 'GET /v1 HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n\r\n' >&3; tail -n 1 <&3
			echo >/dev/tcp/example.com/443 || echo made >file`)
	assert.Equal(t, 0, code, errs)
	assert.Equal(t, "model of /v1", out)
	assert.Contains(t, errs, "sandbox: allow connect Host::\"inference.local\"\n")
	assert.Contains(t, errs, "sandbox: DENY  connect Host::\"example.com\": unlisted-host\n")
	assert.Contains(t, errs, "sandbox: 1 connections, 2 refusals\n", "both families of addresses")
	made, err := os.ReadFile(filepath.Join(work, "file"))
	require.NoError(t, err)
	assert.Equal(t, "made\n", string(made))
	kinds := map[audit.Kind]int{}
	for r, err := range audit.Scan(context.Background(), os.DirFS(dir+"/log"), audit.Filter{}) {
		require.NoError(t, err)
		if r.Event != nil {
			kinds[r.Event.Kind]++
		}
	}
	assert.Equal(t, [3]int{1, 2, 1}, [3]int{kinds[audit.KindLaunch], kinds[audit.KindDenial], kinds[audit.KindExit]})
}

// What is asked of a host whose requests are judged is shown with its path.
func TestRunShowsRequests(t *testing.T) {
	needSandbox(t)
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip(err)
	}
	_, out, errs := invoke(t, "", "run", "-preset", "npm", "--", "node", "-e",
		`fetch("https://registry.npmjs.org/lodash", {method: "PUT"}).then(r => console.log(r.status))`)
	assert.Equal(t, "403\n", out, errs)
	assert.Contains(t, errs, `sandbox: DENY  connect Host::"registry.npmjs.org" PUT "/lodash": http-method`)
}

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/bad.yaml", []byte("version: 1\nnetwork:\n  allow:\n    - host: 10.0.0.1\n"), 0o600))
	for args, want := range map[string]string{
		"":                                  "usage:",
		"walk":                              "usage:",
		"run":                               "no program",
		"run -preset nothing -- true":       "no preset \"nothing\"",
		"run -policy /no/such/file -- true": "no such file",
		"run -policy " + dir + "/bad.yaml -- true": "bad.yaml:4:13",
		"run -serve inference.local -- true":       "NAME=URL",
		"check " + dir + "/bad.yaml":               "bad.yaml:4:13",
		"presets nothing":                          "there are claude-code",
	} {
		code, out, errs := invoke(t, "", strings.Fields(args)...)
		assert.Equal(t, failed, code, args)
		assert.Empty(t, out, args)
		assert.Contains(t, errs, want, args)
	}
}

func TestPresets(t *testing.T) {
	code, out, _ := invoke(t, "", "presets")
	assert.Equal(t, 0, code)
	assert.Equal(t, sandbox.Presets(), strings.Fields(out))
	_, out, _ = invoke(t, "", "presets", "pypi")
	assert.Equal(t, "pypi.org GET,HEAD /simple/** GET,HEAD /pypi/**\nfiles.pythonhosted.org read-only\n", out)
	_, out, _ = invoke(t, "", "presets", "slack")
	assert.Equal(t, "slack.com served by the host\nfiles.slack.com served by the host\n", out)
}

func TestProbe(t *testing.T) {
	needSandbox(t)
	code, out, errs := invoke(t, "", "probe")
	assert.Equal(t, 0, code, errs)
	for _, l := range sandbox.Layers() {
		assert.Contains(t, out, string(l))
	}
}
