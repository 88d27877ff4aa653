//go:build linux && (amd64 || arm64)

package credzero

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
)

// A blabbermouth answers every request with all that it was sent, in every form
// that a path can ask for.
type blabbermouth struct {
	mu   sync.Mutex
	seen bytes.Buffer // what it was sent
}

var blabberPaths = []string{
	"/raw", "/json", "/twice", "/base64", "/hex", "/query", "/error", "/header", "/elsewhere", "/here", "/stream", "/trailer", "/gzip", "/cut", "/unauthorized",
}

func (b *blabbermouth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var all strings.Builder
	fmt.Fprintf(&all, "%s %s\n%s\n", r.Method, r.URL, body)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		values := r.Header[name]
		if name == "Range" {
			continue
		}
		fmt.Fprintf(&all, "%s: %s\n", name, strings.Join(values, ","))
		for _, v := range values {
			if _, coded, ok := strings.Cut(v, "Basic "); ok { // as it is meant
				plain, _ := base64.StdEncoding.DecodeString(coded)
				fmt.Fprintf(&all, "%s\n", plain)
			}
		}
	}
	text := all.String()
	b.mu.Lock()
	b.seen.WriteString(text)
	b.mu.Unlock()
	line := strings.ReplaceAll(text, "\n", " ")
	quoted, _ := json.Marshal(map[string]string{"you sent": text})
	switch r.URL.Path {
	case "/range":
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
	case "/json":
		_, _ = w.Write(quoted)
	case "/twice":
		again, _ := json.Marshal(map[string]string{"text": string(quoted)})
		_, _ = w.Write(again)
	case "/base64":
		_, _ = io.WriteString(w, base64.StdEncoding.EncodeToString([]byte("x"+text)))
	case "/hex":
		_, _ = io.WriteString(w, strings.ToUpper(hex.EncodeToString([]byte(text))))
	case "/query":
		_, _ = io.WriteString(w, "https://a.example/?q="+url.QueryEscape(text))
	case "/error":
		http.Error(w, text, http.StatusInternalServerError)
	case "/header":
		w.Header().Set("X-Echo", line)
		w.Header().Set("Set-Cookie", "echo="+base64.StdEncoding.EncodeToString([]byte(text)))
	case "/elsewhere":
		w.Header().Set("Location", "https://elsewhere.example/?q="+url.QueryEscape(text))
		w.WriteHeader(http.StatusFound)
	case "/here":
		w.Header().Set("Location", "/nothing?q="+url.QueryEscape(text))
		w.WriteHeader(http.StatusFound)
	case "/stream":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range text {
			_, _ = io.WriteString(w, text[i:i+1])
			if i%7 == 0 {
				_ = http.NewResponseController(w).Flush()
			}
		}
	case "/trailer":
		w.Header().Set("Trailer", "X-Echo")
		_, _ = w.Write(make([]byte, 300<<10))
		w.Header().Set("X-Echo", line)
	case "/gzip":
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, text)
		_ = z.Close()
	case "/cut":
		w.Header().Set("Content-Length", "100000")
		_, _ = io.WriteString(w, text)
	case "/unauthorized":
		w.Header().Set("WWW-Authenticate", "Bearer "+line)
		http.Error(w, text, http.StatusUnauthorized)
	default:
		_, _ = io.WriteString(w, text)
	}
}

func (b *blabbermouth) text() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.seen.Bytes())
}

func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// An agent in a sandbox session that tries everything sees no byte of any
// secret, in any encoding, whatever the scheme.
func TestNoSecretReachesTheAgent(t *testing.T) {
	needs(t)
	h := newHouse(t)
	known := new(credential.Scrubber) // the test's own: what must not be seen
	know := func(name, value string) {
		require.NoError(t, known.Add(name, credential.NewSecret([]byte(value))))
	}

	// An authorization server whose tokens are secrets too, and which quotes
	// everything when it refuses.
	var tokens sync.Map
	as := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/broken") {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": "invalid_client", "error_description": fmt.Sprint(r.Header, r.PostForm)})
			return
		}
		token := credentialtest.Canary()
		tokens.Store(r.URL.Path, token)
		know("token of "+r.URL.Path, token)
		if strings.HasPrefix(r.URL.Path, "/app/") {
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "permissions": map[string]string{"metadata": "read"}})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})
	}))
	defer as.Close()
	user := func(_ context.Context, a audit.Actor) (credential.Secret, error) {
		return credential.NewSecret([]byte("user-token-of-" + a.Agent + "-0123456789")), nil
	}
	know("user's token", "user-token-of-worker-0123456789")
	server := func(name string) oauth.Client {
		return oauth.Client{Issuer: as.URL, ID: "me", TokenEndpoint: as.URL + "/" + name}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	withKey := server("private-key")
	withKey.Auth = oauth.PrivateKeyJWT
	secretKey := credentialtest.Canary()
	google, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "a@example.com", "private_key_id": "1", "private_key": pkcs8(t, rsaKey)})
	require.NoError(t, err)

	schemes := map[string]struct {
		scheme credential.Scheme
		secret string
		sent   string // what the API must have got; "" if only a signature goes out
	}{
		"header":        {scheme: credential.Header("X-Api-Key", ""), sent: "*"},
		"format":        {scheme: credential.HeaderFormat("Authorization", "Token token={secret}, v=1"), sent: "*"},
		"bearer":        {scheme: credential.Bearer(), sent: "*"},
		"basic":         {scheme: credential.Basic("me"), sent: "*"},
		"query":         {scheme: credential.LastResortQuery("api_key"), sent: "*"},
		"form":          {scheme: credential.Form("key"), sent: "*"},
		"sigv4":         {scheme: credential.SigV4("eu-central-1", "execute-api", nil), secret: `{"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"` + secretKey + `"}`},
		"client":        {scheme: oauth.ClientCredentials(server("client")), sent: "/client"},
		"private-key":   {scheme: oauth.ClientCredentials(withKey), secret: pkcs8(t, ecKey), sent: "/private-key"},
		"exchange":      {scheme: oauth.TokenExchange(server("exchange"), user, nil), sent: "/exchange"},
		"jwt-bearer":    {scheme: oauth.JWTBearer(server("jwt-bearer"), user), sent: "/jwt-bearer"},
		"github-app":    {scheme: oauth.GitHubApp("1", "42", &oauth.GitHubAppOptions{API: as.URL}), secret: pkcs8(t, rsaKey), sent: "/app/installations/42/access_tokens"},
		"google":        {scheme: oauth.GoogleServiceAccount(&oauth.GoogleOptions{TokenEndpoint: as.URL + "/google"}), secret: string(google), sent: "/google"},
		"broken-server": {scheme: oauth.ClientCredentials(server("broken"))},
	}
	know("aws", secretKey)
	store := credential.NewMemoryStore(nil)
	secrets := map[string]string{}
	for name, s := range schemes {
		if secrets[name] = s.secret; s.secret == "" {
			secrets[name] = credentialtest.Canary()
		}
	}
	for _, name := range []string{"mcp", "model", "unused", "env", "descriptor"} {
		secrets[name] = credentialtest.Canary()
	}
	for name, value := range secrets {
		know(name, value)
		ref, err := store.Put(t.Context(), name, credential.NewSecret([]byte(value)), 0, "")
		require.NoError(t, err)
		require.NoError(t, store.SetState(t.Context(), ref, credential.StatePending, credential.StateCurrent))
	}
	var logged syncBuffer
	logger := slog.New(slog.NewTextHandler(&logged, nil))
	h.vault, err = credential.NewBroker(store, h.log, &credential.BrokerOptions{Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() { h.vault.Close() })
	require.NoError(t, h.vault.Preload(t.Context()))

	job := task{Paths: blabberPaths, Names: []string{"header.api.local", "nothing.example", strings.Repeat("a", 60) + ".api.local", "metadata.google.internal"}}
	apis := map[string]*blabbermouth{}
	for name, s := range schemes {
		api := &blabbermouth{}
		apis[name] = api
		srv := httptest.NewServer(api)
		defer srv.Close()
		host := name + ".api.local"
		h.api(host, srv.URL, name, s.scheme).Logger = logger
		job.APIs, job.Real = append(job.APIs, host), append(job.Real, strings.TrimPrefix(srv.URL, "http://"))
	}

	// A model that repeats its key, and tools that repeat theirs.
	model := &blabbermouth{}
	modelServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		switch r.URL.Path = "/json"; {
		case bytes.Contains(body, []byte(`"content":"error"`)):
			r.URL.Path = "/error"
		case bytes.Contains(body, []byte(`"stream":true`)):
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "data: {\"x\":%q}\n\n", r.Header.Get("Authorization"))
			fmt.Fprint(w, "data: [DONE]\n\n")
			return
		}
		model.ServeHTTP(w, r)
	}))
	defer modelServer.Close()
	backend := inference.Backend{Name: "scripted", Protocol: inference.OpenAI, BaseURL: modelServer.URL + "/v1", Credential: "model", Models: []string{"m"}}
	binding, err := backend.Binding()
	require.NoError(t, err)
	require.NoError(t, h.vault.Bind(t.Context(), "model", binding, by))
	router, err := inference.NewRouter(inference.Config{Backends: []inference.Backend{backend}}, h.engine, h.log, &inference.Options{Vault: h.vault, Logger: logger})
	require.NoError(t, err)
	defer router.Close()
	h.served["inference.local"] = router

	tool := mcp.NewServer(&mcp.Implementation{Name: "blab", Version: "1"}, nil)
	add := func(name string, f func(auth string) (*mcp.CallToolResult, error)) {
		tool.AddTool(&mcp.Tool{Name: name, Description: name, InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
			func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				if r.Extra == nil || r.Extra.Header == nil {
					return f("")
				}
				return f(r.Extra.Header.Get("Authorization"))
			})
	}
	add("text", func(auth string) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: auth}, &mcp.EmbeddedResource{Resource: &mcp.ResourceContents{URI: "file:///a", Text: auth}}},
			StructuredContent: map[string]any{auth: auth}}, nil
	})
	add("bytes", func(auth string) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.ImageContent{MIMEType: "image/png", Data: []byte(auth)}}}, nil
	})
	add("error", func(auth string) (*mcp.CallToolResult, error) {
		return nil, &jsonrpc.Error{Code: -31000, Message: auth, Data: json.RawMessage(fmt.Sprintf("%q", auth))}
	})
	catalog, err := mcpx.Catalog(t.Context(), "blab", tool)
	require.NoError(t, err)
	toolServer := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return tool }, nil))
	defer toolServer.Close()
	require.NoError(t, h.vault.Bind(t.Context(), "mcp", credential.Binding{Origin: toolServer.URL}, by))
	h.rules(`
		@id("worker-asks") permit (principal == Agent::"worker", action == Action::"invoke_model", resource);
		@id("worker-calls") permit (principal == Agent::"worker", action in [Action::"call_tool", Action::"list_tools"], resource);
	`, catalog)
	gateway := mcpx.NewGateway(h.engine, h.log, &mcpx.GatewayOptions{Vault: h.vault, Logger: logger})
	defer gateway.Close()
	upstream := mcpx.HTTP("blab", toolServer.URL)
	upstream.Credential = "mcp"
	require.NoError(t, gateway.AddUpstream(t.Context(), upstream))
	h.served["tools.local"] = gateway

	// Children of the host that were given theirs, as local MCP servers are.
	for name, scheme := range map[string]credential.Scheme{"env": credential.Env("TOKEN"), "descriptor": credential.Descriptor("TOKEN_FILE")} {
		origin := credential.ProcessOrigin("local")
		require.NoError(t, h.vault.Bind(t.Context(), name, credential.Binding{Origin: origin, Scheme: scheme}, by))
		lease, err := h.vault.Lease(t.Context(), credential.LeaseRequest{Actor: agent, Credential: name, Origin: origin})
		require.NoError(t, err)
		defer lease.Release()
		child := exec.Command("sleep", "300")
		child.Env = []string{}
		handover, err := lease.Command(child)
		require.NoError(t, err)
		require.NoError(t, child.Start())
		handover.Close()
		defer child.Wait()
		defer child.Process.Kill()
		var environ []byte
		require.Eventually(t, func() bool { // Start returns before the kernel has put it in its place
			environ, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", child.Process.Pid))
			return err != nil || len(environ) > 0
		}, time.Minute, time.Millisecond)
		require.NoError(t, err)
		assert.Equal(t, name == "env", known.Count(environ)[name] == 1, "it is there, for the host")
	}

	// What the search must find, or it proves nothing.
	control := new(credential.Scrubber)
	decoys := map[string]string{}
	for _, where := range []string{"environment", "file", "argument"} {
		decoys[where] = credentialtest.Canary()
		require.NoError(t, control.Add(where, credential.NewSecret([]byte(decoys[where]))))
	}

	box := h.box(&sandbox.Options{Self: true, Logger: logger})
	require.NoError(t, os.WriteFile(filepath.Join(box.Workspace(), "notes"), []byte(decoys["file"]), 0o644))
	job.Names = append(job.Names, decoys["argument"]+".example")
	arg, err := json.Marshal(job)
	require.NoError(t, err)
	cmd := box.Command(t.Context(), sandbox.Self, "thief", string(arg))
	cmd.Env = []string{"PLANTED=" + base64.StdEncoding.EncodeToString([]byte(decoys["environment"])), "GORACE=" + os.Getenv("GORACE")}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	done := make(chan error, 1)
	go func() { err := cmd.Run(); w.Close(); done <- err }()
	var text tail
	search := known.Reader(io.TeeReader(r, &text))
	controlled := control.Reader(search)
	n, err := io.Copy(io.Discard, controlled)
	require.NoError(t, err)
	require.NoError(t, <-done, string(text.end))
	require.NoError(t, box.Close())
	t.Logf("the thief has read %d bytes", n)

	assert.Empty(t, search.Found(), "secrets that the agent has seen")
	found := controlled.Found().Names()
	for where := range decoys {
		assert.NotZero(t, found[where], "the search finds what lies in the %s", where)
	}
	assert.Contains(t, string(text.end), "== the end")

	// The secrets were really used, and really repeated.
	for name, s := range schemes {
		got := known.Count(apis[name].text())
		switch {
		case s.sent == "*":
			assert.NotZero(t, got[name], "%s: the API got the secret", name)
		case s.sent != "":
			assert.NotZero(t, got["token of "+s.sent], "%s: the API got the token", name)
			assert.Zero(t, got[name], "%s: the API got what the token was traded for", name)
		case name == "sigv4":
			assert.Contains(t, string(apis[name].text()), "AWS4-HMAC-SHA256")
			assert.Empty(t, got)
		default:
			assert.Empty(t, got, "%s: nothing was had to be sent", name)
		}
		if s.sent != "" {
			assert.True(t, bytes.Contains(text.marks, []byte("[redacted:"+name+"]")), "%s: the answer was cleaned", name)
		}
	}
	for _, name := range []string{"mcp", "model"} {
		assert.True(t, bytes.Contains(text.marks, []byte("[redacted:"+name+"]")), "%s: the answer was cleaned", name)
	}
	records, err := json.Marshal(h.log.Records())
	require.NoError(t, err)
	assert.Empty(t, known.Count(records), "secrets on record")
	assert.Empty(t, known.Count(logged.bytes()), "secrets in the host's log")
	leaks := map[string]bool{}
	for _, rec := range h.log.Records() {
		if rec.Event != nil && rec.Event.Kind == audit.KindLeak {
			leaks[rec.Event.Detail["credential"]] = true
		}
	}
	for name, s := range schemes {
		assert.Equal(t, s.sent != "", leaks[name], "%s: leaks are on record", name)
	}
}

// A tail keeps the end of what is written, and the marks in it.
type tail struct {
	end, marks []byte
}

func (k *tail) Write(p []byte) (int, error) {
	for rest := p; ; {
		i := bytes.Index(rest, []byte("[redacted:"))
		if i < 0 {
			break
		}
		rest = rest[i:]
		if len(k.marks) < 16<<20 {
			k.marks = append(k.marks, rest[:min(len(rest), 40)]...)
		}
		rest = rest[1:]
	}
	k.end = append(k.end, p...)
	k.end = k.end[max(0, len(k.end)-4096):]
	return len(p), nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}
