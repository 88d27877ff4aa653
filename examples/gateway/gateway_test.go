package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/filevault"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

var by = audit.Change{By: "a test", Reason: "it needs it"}

// The test binary is a server of notes on its standard streams too.
func TestMain(m *testing.M) {
	if os.Getenv("GATEWAY_TEST_SERVER") != "" {
		if err := notes().Run(context.Background(), &mcp.StdioTransport{}); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// notes is a server that says what it finds in its environment.
func notes() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "notes", Version: "1"}, nil)
	read := &mcp.ToolAnnotations{ReadOnlyHint: true}
	mcp.AddTool(s, &mcp.Tool{Name: "environment", Description: "Shows the environment.", Annotations: read}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: strings.Join(os.Environ(), "\n")}}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "burn", Description: "Burns all notes."}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		panic("burnt")
	})
	return s
}

// A site is a folder as an operator fills it.
type site struct {
	t       *testing.T
	dir     string
	secrets map[string]string
	keys    map[string]string // of agents: PEM
	logged  *lines
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir(), secrets: map[string]string{}, keys: map[string]string{}, logged: &lines{}}
	kek, err := filevault.CreateIdentity(filepath.Join(s.dir, "vault.key"))
	require.NoError(t, err)
	_, err = filevault.Create(t.Context(), filepath.Join(s.dir, "vault"), kek, nil)
	require.NoError(t, err)
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(s.t, os.WriteFile(path, []byte(text), 0o600))
}

// secret puts a secret into the vault, as twinward-vault does.
func (s *site) secret(name string, spec credential.BindingSpec) {
	s.t.Helper()
	kek, err := filevault.LoadIdentity(filepath.Join(s.dir, "vault.key"))
	require.NoError(s.t, err)
	store, err := filevault.Open(s.t.Context(), filepath.Join(s.dir, "vault"), kek, nil)
	require.NoError(s.t, err)
	vault, err := credential.NewBroker(store, audittest.NewLog(s.t), nil)
	require.NoError(s.t, err)
	defer vault.Close()
	s.secrets[name] = credentialtest.Canary()
	ref, err := vault.Put(s.t.Context(), name, credential.NewSecret([]byte(s.secrets[name])), "", by)
	require.NoError(s.t, err)
	require.NoError(s.t, vault.Promote(s.t.Context(), ref, by))
	require.NoError(s.t, vault.BindSpec(s.t.Context(), name, spec, by))
}

// agent makes the key pair of an agent, and returns its line of gateway.yaml.
func (s *site) agent(id string) string {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(s.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(s.t, err)
	s.keys[id] = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"}}})
	require.NoError(s.t, err)
	s.write(id+".jwks", string(set))
	return fmt.Sprintf("  - {id: %s, owner: a test, keys: %s.jwks}\n", id, id)
}

// catalog writes down the tools of a live server. Its classes are taken as they
// are proposed, which an operator would not do.
func (s *site) catalog(name string, transport mcp.Transport) {
	s.t.Helper()
	text, err := mcpx.ReadCatalog(s.t.Context(), name, transport)
	require.NoError(s.t, err)
	s.write("bundle/catalog/"+name+".json", string(text))
}

// A running gateway.
type running struct {
	*gateway
	site *site
	http *httptest.Server
}

// start opens the site and serves it over TLS. Text is the rest of gateway.yaml.
func (s *site) start(text string) *running {
	s.t.Helper()
	r := &running{site: s, http: httptest.NewUnstartedServer(nil)}
	s.write("gateway.yaml", "resource: https://"+r.http.Listener.Addr().String()+"/mcp\n"+text)
	g, err := open(s.t.Context(), s.dir, by, slog.New(slog.NewTextHandler(s.logged, nil)))
	require.NoError(s.t, err)
	r.gateway = g
	r.http.Config.Handler = g.handler()
	r.http.StartTLS()
	s.t.Cleanup(func() {
		assert.NoError(s.t, g.close())
		r.http.CloseClientConnections()
		r.http.Close()
	})
	return r
}

// connect is an agent somewhere else, which signs with its key for its tokens.
func (r *running) connect(id string) *mcptest.Agent {
	t := r.site.t
	t.Helper()
	elsewhere, err := credential.NewBroker(credential.NewMemoryStore(map[string]credential.Secret{"key": credential.NewSecret([]byte(r.site.keys[id]))}),
		audittest.NewLog(t), &credential.BrokerOptions{Client: r.http.Client()})
	require.NoError(t, err)
	t.Cleanup(func() { elsewhere.Close() })
	scheme := oauth.ClientCredentials(oauth.Client{Issuer: r.http.URL, ID: id, Auth: oauth.PrivateKeyJWT, KeyID: id, Resource: r.Resource})
	require.NoError(t, elsewhere.Bind(t.Context(), "key", credential.Binding{Origin: r.http.URL, Scheme: scheme}, by))
	lease, err := elsewhere.Lease(t.Context(), credential.LeaseRequest{Actor: audit.Actor{Agent: id}, Credential: "key", Origin: r.http.URL})
	require.NoError(t, err)
	t.Cleanup(lease.Release)
	return mcptest.Connect(t, r.Resource, &mcptest.ConnectOptions{Transport: lease.Transport(r.http.Client().Transport)})
}

// quiet asserts that no secret of the vault is in what an agent saw, what is on
// record, and what the gateway logged.
func (r *running) quiet(agents ...*mcptest.Agent) {
	t := r.site.t
	t.Helper()
	for _, a := range agents {
		credentialtest.AssertNoLeak(t, r.vault.Scrubber(), a.Seen())
	}
	credentialtest.AssertNoLeak(t, r.vault.Scrubber(), r.site.logged.bytes())
	require.NoError(t, fs.WalkDir(os.DirFS(r.site.dir), "log", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(r.site.dir, path))
		credentialtest.AssertNoLeak(t, r.vault.Scrubber(), b)
		return err
	}))
}

const rules = `
@id("all") permit (principal, action in Action::"call_tool", resource);
@id("lists") permit (principal, action == Action::"list_tools", resource);
@id("nothing-burns") forbid (principal, action in Action::"destructive", resource);
@id("keys") permit (principal, action == Action::"use_credential", resource)
	when { context has server && Credential::"remote" == resource || context has server && context.server == "local" };
`

// A folder is a gateway: agents bring tokens that they have signed for, a server
// at a URL and one that is a child get their credentials, and no agent sees one.
// No sandbox is needed.
func TestGateway(t *testing.T) {
	t.Setenv("HOST_SECRET", "hunter2")
	s := newSite(t)
	upstream := mcptest.NewUpstream(t, notes(), nil)
	s.secret("remote", credential.BindingSpec{Origin: upstream.URL, Type: "bearer"})
	s.secret("local", credential.BindingSpec{Origin: credential.ProcessOrigin("local"), Type: "env", Name: "NOTES_TOKEN"})
	upstream.SetToken(s.secrets["remote"])
	s.write("bundle/policies/rules.cedar", rules)
	for _, name := range []string{"remote", "local"} {
		here, there := mcp.NewInMemoryTransports()
		session, err := notes().Connect(t.Context(), there, nil)
		require.NoError(t, err)
		s.catalog(name, here)
		require.NoError(t, session.Close())
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	g := s.start("agents:\n" + s.agent("alice") + s.agent("bob") + fmt.Sprintf(`servers:
  - {name: remote, url: %q, credential: remote}
  - {name: local, command: [%q], env: {GATEWAY_TEST_SERVER: "1"}, credential: local, unconfined: true}
`, upstream.URL, exe))

	resp, err := g.http.Client().Post(g.Resource, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusUnauthorized, resp.StatusCode, "nobody without a token")

	alice, bob := g.connect("alice"), g.connect("bob")
	tools, err := alice.Tools(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"local__environment", "remote__environment"}, tools, "what destroys is not even shown")
	for _, a := range []*mcptest.Agent{alice, bob} {
		res, err := a.Call(t.Context(), "local__environment", `{}`)
		require.NoError(t, err)
		require.False(t, res.IsError, mcptest.Text(res))
		assert.Contains(t, mcptest.Text(res), "NOTES_TOKEN=[redacted:local]", "it has its secret, and the agent does not")
		assert.NotContains(t, mcptest.Text(res), "hunter2")
	}
	res, err := alice.Call(t.Context(), "remote__environment", `{}`)
	require.NoError(t, err)
	assert.False(t, res.IsError, mcptest.Text(res))
	res, err = alice.Call(t.Context(), "remote__burn", `{}`)
	require.NoError(t, err)
	assert.True(t, res.IsError)
	assert.Len(t, upstream.Calls(), 1)
	g.quiet(alice, bob)

	// The rules change without a restart, and bad ones change nothing.
	s.write("bundle/policies/rules.cedar", rules+`@id("not-now") forbid (principal == Agent::"bob", action in Action::"call_tool", resource);`)
	require.NoError(t, g.load(t.Context(), by))
	res, err = bob.Call(t.Context(), "remote__environment", `{}`)
	require.NoError(t, err)
	assert.True(t, res.IsError)
	s.write("bundle/policies/rules.cedar", "permit everything;")
	require.Error(t, g.load(t.Context(), by))
	res, err = bob.Call(t.Context(), "remote__environment", `{}`)
	require.NoError(t, err)
	assert.True(t, res.IsError)
	assert.Len(t, upstream.Calls(), 1)

	// Who is revoked is out.
	require.NoError(t, g.agents.Revoke(t.Context(), "alice", by))
	_, err = alice.Call(t.Context(), "remote__environment", `{}`)
	require.Error(t, err)
	assert.Len(t, upstream.Calls(), 1)

	require.NoError(t, g.close())
	_, err = audit.Verify(t.Context(), os.DirFS(filepath.Join(s.dir, "log")), &audit.VerifyOptions{Key: g.log.VerifierKey()})
	require.NoError(t, err)
}

// What cannot work is said at the start.
func TestConfigThatCannotWorkSaysSo(t *testing.T) {
	for text, want := range map[string]string{
		"resource: http://here/mcp":                                              "https URL",
		"resource: https://here":                                                 "with a path",
		"resource: https://here/mcp\nservers: [{name: a}]":                       "a url or a command",
		"resource: https://here/mcp\nservers: [{name: a, command: [b]}]":         "unconfined",
		"resource: https://here/mcp\nserver: []":                                 "server",
		"resource: https://here/mcp\nservers: [{name: a, url: b, command: [c]}]": "a url or a command",
	} {
		s := newSite(t)
		s.write("gateway.yaml", text)
		_, err := open(t.Context(), s.dir, by, slog.New(slog.DiscardHandler))
		assert.ErrorContains(t, err, want, text)
	}
}

// lines is what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}
