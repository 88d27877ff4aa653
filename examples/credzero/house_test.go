//go:build linux && (amd64 || arm64)

// Package credzero proves that an agent in a sandbox session works with secrets
// and never has one: git, npm and HTTP APIs through [credential.Proxy], tools
// and models through their doors, and an agent that tries everything to see a
// secret. The host here is what a host of yours looks like.
package credzero

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox"
	"github.com/twinward-dev/twinward/sandbox/apidoor"
)

var (
	by    = audit.Change{By: "a test", Reason: "it needs it"}
	agent = audit.Actor{Agent: "worker"}
)

// The test binary is the thief too, inside.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "thief" {
		thief(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// needs skips a test where there is no sandbox or one of the programs is
// missing; in full mode that is a failure.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	stop := t.Skipf
	if os.Getenv("TWINWARD_FULL") != "" {
		stop = t.Fatalf
	}
	if missing := sandbox.Probe().Missing; len(missing) > 0 {
		stop("no sandbox here: %v", missing)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			stop("%v", err)
		}
	}
}

// A house is a host: a log, a policy engine, a vault.
type house struct {
	t       *testing.T
	log     *audittest.Log
	engine  *governance.Engine
	vault   *credential.Broker
	secrets map[string]string // for the test to know; a host has no such map
	served  map[string]http.Handler
}

const policies = `
@id("worker-reaches") permit (principal == Agent::"worker", action in [Action::"connect", Action::"exec"], resource);
@id("worker-uses") permit (principal == Agent::"worker", action == Action::"use_credential", resource);
@id("no-force") forbid (principal, action == Action::"connect", resource) when { context has path && context.path like "/forbidden*" };
`

func newHouse(t *testing.T, names ...string) *house {
	t.Helper()
	h := &house{t: t, log: audittest.NewLog(t), secrets: map[string]string{}, served: map[string]http.Handler{}}
	held := map[string]credential.Secret{}
	for _, name := range names {
		h.secrets[name] = credentialtest.Canary()
		held[name] = credential.NewSecret([]byte(h.secrets[name]))
	}
	var err error
	h.vault, err = credential.NewBroker(credential.NewMemoryStore(held), h.log, nil)
	require.NoError(t, err)
	t.Cleanup(func() { h.vault.Close() })
	require.NoError(t, h.vault.Preload(t.Context()))
	h.engine = governance.NewEngine(h.log, nil)
	return h
}

func (h *house) rules(more string, catalog ...governance.Server) {
	h.t.Helper()
	_, err := h.engine.Reload(h.t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "test.cedar", Text: policies + more}}, Catalog: catalog,
	}, by)
	require.NoError(h.t, err)
}

// api serves origin under a name, with a secret of the vault.
func (h *house) api(name, origin, secret string, scheme credential.Scheme) *credential.ProxyHandler {
	h.t.Helper()
	require.NoError(h.t, h.vault.Bind(h.t.Context(), secret, credential.Binding{Origin: origin, Scheme: scheme}, by))
	p := credential.Proxy(origin, h.vault, apidoor.Authorize(h.engine, h.log, name, secret, nil))
	h.served[name] = p
	return p
}

// box starts a session that reaches what is served, and nothing else.
func (h *house) box(opts *sandbox.Options) *sandbox.Session {
	h.t.Helper()
	p := &sandbox.Policy{}
	for name := range h.served {
		p.Network.Allow = append(p.Network.Allow, sandbox.Rule{Host: name, Ports: []uint16{443, 80}, Served: true})
	}
	slices.SortFunc(p.Network.Allow, func(a, b sandbox.Rule) int { return strings.Compare(a.Host, b.Host) })
	s, err := sandbox.Start(h.t.Context(), p, agent, h.log, opts)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { s.Close() })
	for name, handler := range h.served {
		require.NoError(h.t, s.Handle(name, handler))
	}
	return s
}

// sh runs a script inside and returns what it wrote. It must not write a
// secret.
func (h *house) sh(s *sandbox.Session, script string) (string, error) {
	h.t.Helper()
	var out bytes.Buffer
	cmd := s.Command(h.t.Context(), "sh", "-euc", script)
	cmd.Env = []string{"HOME=/sandbox", "GIT_TERMINAL_PROMPT=0"}
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	credentialtest.AssertNoLeak(h.t, h.vault.Scrubber(), out.Bytes())
	return out.String(), err
}
