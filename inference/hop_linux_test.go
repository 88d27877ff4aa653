package inference

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A load is one kind of request.
type load struct {
	name, path string
	body       []byte
}

func loads(t testing.TB) []load {
	small := `{"model":"good","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("x", 100) + `"}]}`
	return []load{
		{"190B", "/v1/chat/completions", []byte(small)},
		{"76KB", "/v1/messages", bytes.Replace(agentBody(t), []byte(`"claude-test"`), []byte(`"good"`), 1)},
	}
}

// ask sends one request, reads the whole answer, and returns after how long its
// first byte was there.
func (h *host) ask(t testing.TB, client *http.Client, l load) (first time.Duration) {
	req, err := http.NewRequest(http.MethodPost, h.url+l.path, bytes.NewReader(l.body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	for name, values := range h.header {
		req.Header[name] = values
	}
	var answer bytes.Buffer
	start := time.Now()
	resp, err := client.Do(req)
	if !assert.NoError(t, err) {
		return 0
	}
	defer resp.Body.Close()
	n, err := io.CopyN(&answer, resp.Body, 1)
	first = time.Since(start)
	if err == nil && n == 1 {
		_, err = answer.ReadFrom(resp.Body)
	}
	if assert.NoError(t, err) && strings.Count(answer.String(), `" word"`) != words20 {
		assert.Fail(t, "the answer is not whole", answer.String())
	}
	return first
}

// BenchmarkHop measures what a streamed call of 20 words costs in a process of its
// own: of this door with policies, vault, budget, and a log on disk that is not
// waited for; and of a bare httputil.ReverseProxy. They and the backend itself are
// asked in turns, in a new order each time. The figures are medians over the turns;
// first-token is the time until the first byte of the body.
func BenchmarkHop(b *testing.B) {
	up := newModelServer(b)
	direct := &host{name: "direct", url: up.URL}
	proxy, router := startHost(b, "reverseproxy", up), startHost(b, "router", up)
	for _, l := range loads(b) {
		for _, parallel := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s-%d-at-once", l.name, parallel), func(b *testing.B) {
				race(b, up, l, parallel, 100, direct, proxy, router)
			})
		}
	}
}

// BenchmarkHopBesides is BenchmarkHop with programs of others: nginx as a plain proxy
// that adds a header, in one process, and Portkey's gateway.
func BenchmarkHopBesides(b *testing.B) {
	for _, peer := range []struct {
		name  string
		batch int
		start func(*testing.B, *modelServer) *host
	}{{"nginx", 100, startNginx}, {"portkey", 20, startPortkey}} {
		b.Run(peer.name, func(b *testing.B) {
			up := newModelServer(b)
			h, router := peer.start(b, up), startHost(b, "router", up)
			direct := &host{name: "direct", url: up.URL}
			for _, l := range loads(b) {
				if peer.name == "portkey" {
					h.header.Set("X-Portkey-Provider", map[string]string{"190B": "openai", "76KB": "anthropic"}[l.name])
				}
				b.Run(l.name, func(b *testing.B) { race(b, up, l, 1, peer.batch, direct, h, router) })
			}
		})
	}
}

// race measures hosts side by side: the first is the backend itself, and the second
// the one that others are compared with.
func race(b *testing.B, up *modelServer, l load, parallel, batch int, hosts ...*host) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: parallel}}
	defer client.CloseIdleConnections()
	spent, first := make([][]float64, len(hosts)), make([][]float64, len(hosts))
	for b.Loop() {
		for _, i := range rand.Perm(len(hosts)) {
			h := hosts[i]
			for range 5 { // which find its caches cold
				h.ask(b, client, l)
			}
			calls, from := up.calls.Load(), h.cpu(b)
			took := make([]float64, batch)
			var wg sync.WaitGroup
			for at := range parallel {
				wg.Go(func() {
					for ; at < batch; at += parallel {
						took[at] = micros(h.ask(b, client, l))
					}
				})
			}
			wg.Wait()
			spent[i] = append(spent[i], micros(h.cpu(b)-from)/float64(batch))
			first[i] = append(first[i], quantile(took, 0.5))
			require.EqualValues(b, batch, up.calls.Load()-calls, "one request a call")
		}
	}
	for i, h := range hosts {
		b.ReportMetric(quantile(first[i], 0.5), h.name+"-first-token-µs")
		if i == 0 {
			continue
		}
		b.ReportMetric(quantile(each(first[i], first[0], func(x, y float64) float64 { return x - y }), 0.5), h.name+"-added-µs")
		b.ReportMetric(quantile(spent[i], 0.5), h.name+"-cpu-µs/call")
		if i > 1 {
			b.ReportMetric(quantile(each(spent[i], spent[1], func(x, y float64) float64 { return x / y }), 0.5), h.name+"/"+hosts[1].name)
		}
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// each joins the values of two hosts turn by turn.
func each(a, b []float64, join func(x, y float64) float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = join(a[i], b[i])
	}
	return out
}

// quantile returns the value below which the part q of the values lies.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[int(q*float64(len(s)-1))]
}

// BenchmarkManyStreams measures the memory of a process in which 64 calls with 76 KB
// each are under way and wait for more of their streams. It is that of this test's
// binary: anonymous memory is what the streams need, and resident memory also has what
// was read of the program's file.
func BenchmarkManyStreams(b *testing.B) {
	const streams = 64
	up := newModelServer(b)
	proxy, router := startHost(b, "reverseproxy", up), startHost(b, "router", up)
	l := loads(b)[1]
	events := wordsOf(l.path, false)
	anon := map[*host][]float64{}
	for b.Loop() {
		for _, h := range []*host{proxy, router} {
			var first, all sync.WaitGroup
			more := make(chan struct{})
			first.Add(streams)
			serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sse(events[:3]...)(w, r)
				first.Done()
				<-more
				sse(events[3:]...)(w, r)
			})
			up.serve.Store(&serve)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: streams}}
			for range streams {
				all.Go(func() { h.ask(b, client, l) })
			}
			first.Wait()
			anon[h] = append(anon[h], h.memory(b, "RssAnon"))
			close(more)
			all.Wait()
			client.CloseIdleConnections()
		}
	}
	for _, h := range []*host{proxy, router} {
		b.ReportMetric(slices.Max(anon[h]), h.name+"-anonymous-MB")
		b.ReportMetric(h.memory(b, "VmHWM"), h.name+"-resident-MB")
	}
}

// BenchmarkAbort measures the time from a client's abort until the backend notices,
// before the answer has begun and in the stream.
func BenchmarkAbort(b *testing.B) {
	up := newModelServer(b)
	proxy, router := startHost(b, "reverseproxy", up), startHost(b, "router", up)
	l := loads(b)[1]
	for name, before := range map[string]int{"before the first byte": 0, "in the stream": 3} {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			gone := make(chan time.Time)
			begun := make(chan struct{}, 1)
			serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if before > 0 {
					sse(wordsOf(l.path, false)[:before]...)(w, r)
				}
				begun <- struct{}{}
				<-r.Context().Done()
				gone <- time.Now()
			})
			up.serve.Store(&serve)
			took := map[*host][]float64{}
			for b.Loop() {
				for _, h := range []*host{proxy, router} {
					ctx, cancel := context.WithCancel(b.Context())
					read := make(chan struct{}, 1)
					answered := make(chan struct{})
					go func() {
						defer close(answered)
						req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+l.path, bytes.NewReader(l.body))
						if !assert.NoError(b, err) {
							return
						}
						req.Header.Set("Content-Type", "application/json")
						resp, err := http.DefaultClient.Do(req)
						if err != nil {
							return
						}
						defer resp.Body.Close()
						_, _ = io.CopyN(io.Discard, resp.Body, 1)
						read <- struct{}{}
						_, _ = io.Copy(io.Discard, resp.Body)
					}()
					<-begun
					if before > 0 {
						<-read
					}
					start := time.Now()
					cancel()
					took[h] = append(took[h], micros((<-gone).Sub(start))/1e3)
					<-answered
				}
			}
			for _, h := range []*host{proxy, router} {
				b.ReportMetric(quantile(took[h], 0.5), h.name+"-p50-ms")
				b.ReportMetric(quantile(took[h], 0.99), h.name+"-p99-ms")
			}
		})
	}
}
