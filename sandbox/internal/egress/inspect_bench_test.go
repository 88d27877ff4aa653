package egress

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// discard is a log that keeps nothing, so that only the door is measured.
type discard struct{}

func (discard) Begin(context.Context, audit.Intent) (audit.Call, error) { return discard{}, nil }
func (discard) Append(context.Context, audit.Event) error               { return nil }
func (discard) Record() uint64                                          { return 0 }
func (discard) End(context.Context, audit.Outcome) error                { return nil }

// BenchmarkInspect measures a small HTTPS request: straight to the server, through
// a door that checks the name only (relay), and through one that looks into it
// (inspect); on a connection that is kept, and each on a fresh one. The metrics
// are the median and the ninetieth percentile.
func BenchmarkInspect(b *testing.B) {
	for _, conns := range []string{"kept", "fresh"} {
		for _, way := range []string{"direct", "relay", "inspect"} {
			for _, protocol := range []string{"1", "2"} {
				b.Run(conns+"/"+way+"/h"+protocol, func(b *testing.B) {
					o := newOrigin(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
					rules := []Rule{allow("example.com", []uint16{443})}
					if way == "inspect" {
						rules = inspected(httpRules(b, "read-only", nil, []HTTPRule{{Path: "/admin/**"}}))
					}
					in := newInside(b, rules, func(c *Config) { o.reach(c); c.Log = discard{} })
					c := in.clientOf(protocol)
					tr := c.Transport.(*http.Transport)
					if way != "inspect" {
						tr.TLSClientConfig.RootCAs = in.door.conf.Roots
					}
					tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
					to := in.addr("example.com")
					tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
						if way == "direct" {
							var d net.Dialer
							return d.DialContext(ctx, "tcp", o.secure.Listener.Addr().String())
						}
						return in.dialAddr(to, 443), nil
					}
					tr.DisableKeepAlives = conns == "fresh"
					var took []time.Duration
					for b.Loop() {
						began := time.Now()
						res, err := c.Get("https://example.com/v1/things")
						require.NoError(b, err)
						_, err = io.Copy(io.Discard, res.Body)
						require.NoError(b, err)
						res.Body.Close()
						took = append(took, time.Since(began))
					}
					slices.Sort(took)
					b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
					b.ReportMetric(float64(took[len(took)*9/10].Microseconds()), "p90-µs")
				})
			}
		}
	}
}

// BenchmarkInspectBody measures the download of 64 MiB.
func BenchmarkInspectBody(b *testing.B) {
	const size = 64 << 20
	block := make([]byte, 256<<10)
	for _, way := range []string{"direct", "relay", "inspect"} {
		for _, protocol := range []string{"1", "2"} {
			b.Run(way+"/h"+protocol, func(b *testing.B) {
				o := newOrigin(b, func(w http.ResponseWriter, r *http.Request) {
					for range size / len(block) {
						w.Write(block)
					}
				})
				rules := []Rule{allow("example.com", []uint16{443})}
				if way == "inspect" {
					rules = inspected(nil)
				}
				in := newInside(b, rules, func(c *Config) { o.reach(c); c.Log = discard{} })
				c := in.clientOf(protocol)
				tr := c.Transport.(*http.Transport)
				if way != "inspect" {
					tr.TLSClientConfig.RootCAs = in.door.conf.Roots
				}
				to := in.addr("example.com")
				tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					if way == "direct" {
						var d net.Dialer
						return d.DialContext(ctx, "tcp", o.secure.Listener.Addr().String())
					}
					return in.dialAddr(to, 443), nil
				}
				b.SetBytes(size)
				for b.Loop() {
					res, err := c.Get("https://example.com/big")
					require.NoError(b, err)
					n, err := io.Copy(io.Discard, res.Body)
					require.NoError(b, err)
					require.EqualValues(b, size, n)
					res.Body.Close()
				}
			})
		}
	}
}
