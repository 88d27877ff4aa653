//go:build unix

package inference

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkHop compares the processor time of a streamed call that goes to the
// backend directly, through a bare reverse proxy, through this door with policy
// and vault but without a log, and with a log in memory that signs every record
// (one call at a time leaves nothing to group). Client and backend are in the
// same process: subtract "direct" from the others before dividing them.
func BenchmarkHop(b *testing.B) {
	h := newHouse(b, nil)
	stream := golden(b, "anthropic.sse")
	var events []string
	for ev := range strings.SplitAfterSeq(stream, "\n\n") {
		events = append(events, ev)
	}
	h.backend = func(w http.ResponseWriter, r *http.Request) { sse(events...)(w, r) }
	origin, err := url.Parse(h.origin.URL)
	require.NoError(b, err)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		p := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(origin) }}
		p.ServeHTTP(w, r)
	}))
	defer proxy.Close()

	bare, err := NewRouter(h.config(), h.engine, &lastOutcome{}, &Options{Vault: h.vault})
	require.NoError(b, err)
	defer bare.Close()
	unlogged := httptest.NewServer(session(bare, bot))
	defer unlogged.Close()

	small := []byte(`{"model":"good","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("x", 100) + `"}]}`)
	large := bytes.Replace(agentBody(b), []byte(`"claude-test"`), []byte(`"good"`), 1)
	for _, size := range []struct {
		name string
		body []byte
	}{{"190B", small}, {"76KB", large}} {
		for _, target := range []struct{ name, url string }{{"direct", h.origin.URL}, {"reverseproxy", proxy.URL}, {"router-without-log", unlogged.URL}, {"router", h.door.URL}} {
			b.Run(size.name+"/"+target.name, func(b *testing.B) {
				client := &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
				start, n := cpu(b), 0
				for b.Loop() {
					req, err := http.NewRequest(http.MethodPost, target.url+"/v1/messages", bytes.NewReader(size.body))
					if err != nil {
						b.Fatal(err)
					}
					req.Header.Set("Content-Type", "application/json")
					req.Header.Set("X-Api-Key", h.key)
					resp, err := client.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || len(got) != len(stream) {
						b.Fatalf("%d of %d bytes, %v", len(got), len(stream), err)
					}
					n++
				}
				b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(n), "cpu-µs/op")
			})
		}
	}
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
