package inference

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
)

// A host is a process between clients and the backend, of which the processor
// time and the memory are measured. The backend itself has no process.
type host struct {
	name   string
	url    string      // what comes before /v1/…
	pid    int         // 0: it is not measured
	header http.Header // what its clients have to say besides
}

// cpu is the processor time that the process has used so far, by its clock (see
// clock_getcpuclockid(3)): to the nanosecond, and of threads that ended as well.
func (h *host) cpu(t testing.TB) time.Duration {
	if h.pid == 0 {
		return 0
	}
	var at unix.Timespec
	require.NoError(t, unix.ClockGettime(^int32(h.pid)<<3|2, &at))
	return time.Duration(at.Nano())
}

// memory returns a figure of /proc/PID/status in MB, such as "VmHWM", the most
// memory that was resident.
func (h *host) memory(t testing.TB, figure string) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(status), "\n"+figure+":")
	require.True(t, ok, figure)
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return float64(kb) * 1024 / 1e6
}

// Environment of a process that is a host: what it is, the backend, and its key.
const (
	hopHost    = "TWINWARD_TEST_HOP_HOST"
	hopBackend = "TWINWARD_TEST_HOP_BACKEND"
	hopKey     = "TWINWARD_TEST_HOP_KEY"
)

// startHost runs this test's binary as a router, or as a bare reverse proxy,
// until the test ends.
func startHost(t testing.TB, name string, up *modelServer) *host {
	cmd := exec.Command(os.Args[0], "-test.run=^TestBeAHost$")
	cmd.Env = append(os.Environ(), hopHost+"="+name, hopBackend+"="+up.URL, hopKey+"="+up.key)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return &host{name: name, url: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

// TestBeAHost is the process that startHost runs, and nothing otherwise.
func TestBeAHost(t *testing.T) {
	backend := os.Getenv(hopBackend)
	var handler http.Handler
	switch os.Getenv(hopHost) {
	case "":
		return
	case "reverseproxy":
		handler = bareProxy(t, backend)
	case "router":
		handler = session(governed(t, backend, os.Getenv(hopKey)), bot)
	}
	door := httptest.NewServer(handler)
	defer door.Close()
	fmt.Println(door.URL)
	_, _ = io.Copy(io.Discard, os.Stdin) // until whoever measures has ended
}

// bareProxy is [httputil.ReverseProxy] as it has to be for streams: without full
// duplex it loses one in thirty.
func bareProxy(t testing.TB, backend string) http.Handler {
	at, err := url.Parse(backend)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{
		Transport: newTransport(), FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		proxy.ServeHTTP(w, r)
	})
}

// governed is a router with all that a host has: policies, a vault, prices and a
// budget, and a log on disk that is not waited for.
func governed(t testing.TB, backend, key string) http.Handler {
	log, err := audit.Open(filepath.Join(t.TempDir(), "log"), &audit.Options{Mode: audit.BestEffort})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "test.cedar", Text: policies}}}, operator)
	require.NoError(t, err)
	cfg := Config{Backends: []Backend{
		{Name: "openai", BaseURL: backend + "/v1", Credential: "openai-key", Models: []string{"good"}},
		{Name: "claude", Protocol: Anthropic, BaseURL: backend + "/v1", Credential: "claude-key", Models: []string{"good"}},
	}}
	cfg.Spend, err = spendOf(oneEach + `budgets: [{name: daily, per: agent, window: day, tokens: 900000000000, usd: 900000}]`)
	require.NoError(t, err)
	vault := credentialtest.NewVault(t, nil, map[string]string{"openai-key": key, "claude-key": key})
	for _, b := range cfg.Backends {
		var binding credential.Binding
		binding, err = b.Binding()
		require.NoError(t, err)
		require.NoError(t, vault.Bind(t.Context(), b.Credential, binding, operator))
	}
	router, err := NewRouter(cfg, engine, log, &Options{Vault: vault})
	require.NoError(t, err)
	t.Cleanup(func() { router.Close() })
	return router
}

// A modelServer is a backend that says 20 words, an event each, as fast as it can.
type modelServer struct {
	*httptest.Server
	key   string
	calls atomic.Int64
	serve atomic.Pointer[http.HandlerFunc] // nil: words
}

const words20 = 20

func newModelServer(t testing.TB) *modelServer {
	up := &modelServer{key: credentialtest.Canary()}
	up.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		up.calls.Add(1)
		if serve := up.serve.Load(); serve != nil {
			(*serve)(w, r)
			return
		}
		sse(wordsOf(r.URL.Path, bytes.Contains(body, []byte("include_usage")))...)(w, r)
	}))
	t.Cleanup(up.Close)
	return up
}

// wordsOf are the events of an answer in the protocol of a path.
func wordsOf(path string, usage bool) (events []string) {
	add := func(format string, args ...any) { events = append(events, fmt.Sprintf(format, args...)+"\n\n") }
	if path == "/v1/chat/completions" {
		const chunk = `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"good","choices":`
		for range words20 {
			add(chunk + `[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}`)
		}
		add(chunk + `[{"index":0,"delta":{},"finish_reason":"stop"}]}`)
		if usage {
			add(chunk + `[],"usage":{"prompt_tokens":50,"completion_tokens":20,"total_tokens":70}}`)
		}
		add("data: [DONE]")
		return events
	}
	named := func(name, rest string) { add(`event: %s`+"\n"+`data: {"type":%q%s}`, name, name, rest) }
	named("message_start", `,"message":{"id":"m1","type":"message","role":"assistant","model":"good","content":[],"usage":{"input_tokens":50,"output_tokens":1}}`)
	named("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`)
	for range words20 {
		named("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":" word"}`)
	}
	named("content_block_stop", `,"index":0`)
	named("message_delta", `,"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":20}`)
	named("message_stop", "")
	return events
}

// startNginx runs one process of nginx that adds the key and buffers no answers.
func startNginx(b *testing.B, up *modelServer) *host {
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			b.Skip("nginx is not installed: .ci/bench installs it")
		}
	}
	dir, at := b.TempDir(), freeAddress(b)
	require.NoError(b, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(fmt.Sprintf(`
daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events { worker_connections 512; }
http {
	access_log off; client_body_temp_path body; proxy_temp_path proxy;
	client_max_body_size 32m; client_body_buffer_size 256k; keepalive_requests 1000000;
	upstream backend { server %s; keepalive 64; keepalive_requests 1000000; }
	server {
		listen %s;
		location / {
			proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
			proxy_set_header X-Api-Key %s; proxy_buffering off;
		}
	}
}
`, strings.TrimPrefix(up.URL, "http://"), at, up.key)), 0o600))
	pid := startPeer(b, at, exec.Command(program, "-p", dir, "-c", "nginx.conf"))
	return &host{name: "nginx", url: "http://" + at, pid: pid}
}

// startPortkey runs Portkey's gateway, which is told by each request where it goes.
func startPortkey(b *testing.B, up *modelServer) *host {
	program, err := exec.LookPath("gateway")
	if err != nil {
		b.Skip("Portkey's gateway is not installed: .ci/bench installs it")
	}
	at := freeAddress(b)
	_, port, err := net.SplitHostPort(at)
	require.NoError(b, err)
	cmd := exec.Command(program, "--headless", "--port="+port)
	cmd.Env = append(os.Environ(), "TRUSTED_CUSTOM_HOSTS=localhost,127.0.0.1", "NODE_ENV=production")
	return &host{name: "portkey", url: "http://" + at, pid: startPeer(b, at, cmd), header: http.Header{
		"X-Portkey-Provider": {"anthropic"}, "X-Portkey-Custom-Host": {up.URL + "/v1"}, "Authorization": {up.key},
	}}
}

func freeAddress(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	return l.Addr().String()
}

// startPeer runs somebody else's program until the benchmark ends, and waits until
// it listens.
func startPeer(b *testing.B, at string, cmd *exec.Cmd) (pid int) {
	cmd.Stderr = os.Stderr
	require.NoError(b, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	for {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return cmd.Process.Pid
		}
		select {
		case err := <-exited:
			exited <- err
			require.FailNow(b, "the peer ended", "%v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
