//go:build linux && amd64

// Package agents proves that the programs people use as agents work with this
// module's doors as they come from npm: each runs inside a sandbox session,
// talks to its model at https://inference.local in its own protocol, and runs
// the command that the model wants. What answers there is a real
// [inference.Router], in front of a scripted model that checks its key. The key
// is on the host only: nothing inside has it, in no file, variable or memory.
package agents

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
	"github.com/twinward-dev/twinward/sandbox"
)

// folderVariable says where npm has installed sandbox/testdata/agents; .ci/lib.sh
// does so. A test installs nothing.
const folderVariable = "TWINWARD_AGENTS"

var by = audit.Change{By: "a test", Reason: "it needs it"}

const policies = `
@id("agents-ask")
permit (principal, action in [Action::"invoke_model", Action::"count_tokens", Action::"list_models"], resource);

@id("one-is-not-for-them")
forbid (principal, action == Action::"invoke_model", resource) when { resource.name == "denied-model" };

@id("agents-use-the-keys")
permit (principal, action == Action::"use_credential", resource)
when { context has purpose && context.purpose == "model" };
`

// A house is a host with one agent in a session.
type house struct {
	t      *testing.T
	folder string // of the npm packages
	key    string // of the model; the test knows it, the host's code does not
	log    *audittest.Log
	vault  *credential.Broker
	router *inference.Router
	box    *sandbox.Session
	asked  *asked // of a scripted backend
}

// newHouse makes a host with backends for models, which are at one place: serve
// says where, and wants the key of all.
func newHouse(t *testing.T, serve func(key string) (origin string), backends ...inference.Backend) *house {
	t.Helper()
	h := &house{t: t, folder: needs(t), key: credentialtest.Canary(), log: audittest.NewLog(t)}
	origin, keys := serve(h.key), map[string]string{}
	for i := range backends {
		b := &backends[i]
		b.Name = fmt.Sprintf("scripted-%d", i)
		b.Credential, b.BaseURL = "key-of-"+b.Name, origin+b.BaseURL
		keys[b.Credential] = h.key
	}
	h.vault = credentialtest.NewVault(t, nil, keys)
	for _, b := range backends {
		binding, err := b.Binding()
		require.NoError(t, err)
		require.NoError(t, h.vault.Bind(t.Context(), b.Credential, binding, by))
	}
	engine := governance.NewEngine(h.log, nil)
	_, err := engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "agents.cedar", Text: policies}}}, by)
	require.NoError(t, err)
	h.router, err = inference.NewRouter(inference.Config{Backends: backends}, engine, h.log,
		&inference.Options{Vault: h.vault})
	require.NoError(t, err)
	t.Cleanup(func() { h.router.Close() })
	return h
}

// scripted is a backend that says what it is told to.
func (a *asked) scripted(t *testing.T, script *inferencetest.Script) func(key string) string {
	return func(key string) string {
		script.Key = key
		origin := httptest.NewServer(a.before(script))
		t.Cleanup(origin.Close)
		return origin.URL
	}
}

// enter starts the agent's session, with the router at inference.local.
func (h *house) enter(agent string, policy *sandbox.Policy) {
	h.t.Helper()
	policy, err := sandbox.Join(policy, &sandbox.Policy{
		Filesystem: sandbox.Filesystem{ReadOnly: append(sandbox.SystemPaths(), h.folder)},
	})
	require.NoError(h.t, err)
	h.box, err = sandbox.Start(h.t.Context(), policy, audit.Actor{Agent: agent}, h.log, nil)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { h.box.Close() })
	require.NoError(h.t, h.box.Handle(sandbox.InferenceHost, h.router))
}

// needs returns the folder of the agents. Where there is none, or no sandbox, it
// skips the test; in full mode that is a failure.
func needs(t *testing.T) string {
	t.Helper()
	stop := t.Skipf
	if os.Getenv("TWINWARD_FULL") == "1" {
		stop = t.Fatalf
	}
	if missing := sandbox.Probe().Missing; len(missing) > 0 {
		stop("no sandbox here: %v", missing)
	}
	folder := os.Getenv(folderVariable)
	if folder == "" {
		stop("set %s to a folder where npm has installed sandbox/testdata/agents", folderVariable)
	}
	return folder
}

// program returns the path of what is installed at a place in node_modules.
func (h *house) program(place string) string {
	// OpenClaw wants to run its install script, and cannot where it is read-only.
	asks := filepath.Join(h.folder, "node_modules/openclaw/.openclaw-lifecycle-pending")
	if _, err := os.Stat(asks); err == nil {
		h.t.Fatalf("remove %s, as .ci/lib.sh does: none of the scripts is run", asks)
	}
	path := filepath.Join(h.folder, "node_modules", place)
	if _, err := os.Stat(path); err != nil {
		h.t.Fatalf("%s names a folder without %s: install sandbox/testdata/agents there anew", folderVariable, place)
	}
	return path
}

// write puts a file of the session's user into the workspace.
func (h *house) write(name, text string) {
	h.t.Helper()
	cmd := h.box.Command(h.t.Context(), "sh", "-c", `mkdir -p "$(dirname "$1")" && cat >"$1"`, "sh", name)
	cmd.Stdin = strings.NewReader(text)
	require.NoError(h.t, cmd.Run())
}

// run runs a program inside and returns what it wrote.
func (h *house) run(env []string, program string, args ...string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := h.box.Command(ctx, program, args...)
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Run(); err != nil {
		h.t.Fatalf("%v\n%s\nasked of the backend: %s\non record:\n%s", err, &out, h.asked, h.record())
	}
	h.t.Logf("one turn: %.1f s", time.Since(began).Seconds())
	return out.String()
}

// record shows what the model door wrote down.
func (h *house) record() string {
	var b strings.Builder
	for _, r := range h.log.Records() {
		switch {
		case r.Intent != nil && r.Intent.Door == audit.DoorModel:
			fmt.Fprintf(&b, "%d %s %s %s\n", r.Seq, r.Intent.Actor.Agent, r.Intent.Action, r.Intent.Resource)
		case r.Outcome != nil && r.Outcome.Usage != nil:
			fmt.Fprintf(&b, "  outcome %s %s %+v\n", r.Outcome.Status, r.Outcome.ErrorCode, *r.Outcome.Usage)
		case r.Event != nil && r.Event.Kind == audit.KindDenial:
			fmt.Fprintf(&b, "%d denied: %s %s %s\n", r.Seq, r.Event.Action, r.Event.Resource, r.Event.Decision.Reason)
		}
	}
	return b.String()
}

// asked is what reached the backend, and what happens before an answer.
type asked struct {
	mu      sync.Mutex
	lines   []string
	strange []string // headers that no agent's request may bring
	hook    func()   // runs before the answers to all requests but the first
}

func (a *asked) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.lines = append(a.lines, r.Method+" "+r.URL.RequestURI())
		for name := range r.Header {
			if !slices.Contains(knownHeaders, name) {
				a.strange = append(a.strange, name)
			}
		}
		first := len(a.lines) == 1
		a.mu.Unlock()
		if !first && a.hook != nil {
			a.hook()
		}
		next.ServeHTTP(w, r)
	})
}

// knownHeaders are what the door sends to a provider.
var knownHeaders = []string{
	"Accept", "Accept-Encoding", "Anthropic-Beta", "Anthropic-Version", "Authorization", "Content-Length",
	"Content-Type", "User-Agent", "X-Api-Key", "X-Goog-Api-Key",
}

// all are the requests so far.
func (a *asked) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.lines)
}

func (a *asked) String() string { return strings.Join(a.all(), ", ") }

func (a *asked) onlyKnownHeaders(t *testing.T) {
	a.mu.Lock()
	defer a.mu.Unlock()
	assert.NotEmpty(t, a.lines, "the backend was asked")
	assert.Empty(t, a.strange, "headers of the agent that reached the provider")
}
