//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func init() {
	roles["download"] = func() {
		began := time.Now()
		n, err := drain(&http.Client{Transport: &http.Transport{DisableCompression: true}}, os.Args[1])
		answer(n, time.Since(began), err)
	}
	roles["upload"] = func() {
		began := time.Now()
		res, err := http.Post(os.Args[1], "application/octet-stream", io.LimitReader(zeros{}, moved))
		if err == nil {
			err = res.Body.Close()
		}
		answer(moved, time.Since(began), err)
	}
	// Small requests, each on a connection of its own ("new") or all on one.
	roles["ask"] = func() {
		t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: os.Args[2] == "new"}
		c := &http.Client{Transport: t}
		var l lane
		for i := range 60 {
			began := time.Now()
			if _, err := drain(c, os.Args[1]); err != nil {
				answer(0, 0, err)
			}
			if i >= 10 {
				l.took = append(l.took, time.Since(began))
			}
		}
		answer(0, time.Duration(l.quantile(0.5)*1e6), nil)
	}
}

const moved = 256 << 20

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func drain(c *http.Client, url string) (int64, error) {
	res, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return io.Copy(io.Discard, res.Body)
}

// answer prints what a role has measured.
func answer(n int64, took time.Duration, err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(n, took.Nanoseconds())
}

// asked runs this program in a role, in a session or outside, and returns the
// time that it says it took, as its own start is not what is measured.
func asked(s *Session, role string, args ...string) func(b *testing.B) time.Duration {
	return func(b *testing.B) time.Duration {
		var out []byte
		var err error
		if env := roleVar + "=" + role; s != nil {
			cmd := s.Command(context.Background(), Self, args...)
			cmd.Env = []string{env}
			out, err = cmd.Output()
		} else {
			cmd := exec.Command("/proc/self/exe", args...)
			cmd.Env = append(os.Environ(), env)
			out, err = cmd.Output()
		}
		require.NoError(b, err, "%s", out)
		f := strings.Fields(string(out))
		require.Len(b, f, 2)
		ns, err := strconv.ParseInt(f[1], 10, 64)
		require.NoError(b, err)
		return time.Duration(ns)
	}
}

// openTo returns sessions that reach a server on loopback by a name, and the
// server's port.
func openTo(b *testing.B, l Launcher, server *httptest.Server, r Rule) *Session {
	opts := &Options{Launcher: l, Self: true, Resolver: hosts{"api.example.com.": "127.0.0.1"}}
	if server.TLS != nil {
		opts.Roots = x509.NewCertPool()
		opts.Roots.AddCert(server.Certificate())
	}
	r.Host, r.Ports, r.Private = "api.example.com", []uint16{portOf(server)}, true
	return box(b, discard{}, rules(r), opts)
}

func portOf(s *httptest.Server) uint16 { return s.Listener.Addr().(*net.TCPAddr).AddrPort().Port() }

// BenchmarkEgressThroughput moves a quarter of a GiB through the door, by name,
// beside loopback without it.
func BenchmarkEgressThroughput(b *testing.B) {
	needSandbox(b)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(moved))
		buf := make([]byte, 64<<10)
		for n := 0; n < moved; n += len(buf) {
			if _, err := w.Write(buf); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	for _, role := range []string{"download", "upload"} {
		b.Run(role, func(b *testing.B) {
			var lanes []*lane
			for _, l := range launchers {
				s := openTo(b, l, server, Rule{})
				lanes = append(lanes, &lane{name: string(l), run: asked(s, role, fmt.Sprintf("http://api.example.com:%d/", portOf(server)))})
			}
			lanes = append(lanes, &lane{name: "loopback", run: asked(nil, role, server.URL)})
			alternate(b, 4, lanes...)
			for _, l := range lanes {
				b.ReportMetric(moved/1e6/l.quantile(0.5), l.name+"-GB/s")
			}
		})
	}
}

// BenchmarkEgressLatency makes small HTTPS requests through the door: with TLS
// as it is, and with TLS ended at the door and each request judged.
func BenchmarkEgressLatency(b *testing.B) {
	needSandbox(b)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") }))
	defer server.Close()
	for _, how := range []string{"new", "kept"} {
		b.Run(how, func(b *testing.B) {
			url := fmt.Sprintf("https://api.example.com:%d/", portOf(server))
			lanes := []*lane{
				{name: "opaque", run: asked(openTo(b, launchers[0], server, Rule{}), "ask", url, how)},
				{name: "judged", run: asked(openTo(b, launchers[0], server, Rule{Protocol: ProtocolHTTPS, Access: AccessReadOnly}), "ask", url, how)},
				{name: "loopback", run: asked(nil, "ask", server.URL, how)},
			}
			alternate(b, 4, lanes...)
			for _, l := range lanes[:2] {
				b.ReportMetric(l.quantile(0.5)-lanes[2].quantile(0.5), l.name+"-added-ms")
			}
		})
	}
}

// BenchmarkReload changes the network of a living session, and waits until a
// connection that is forbidden from then on has been cut.
func BenchmarkReload(b *testing.B) {
	needSandbox(b)
	seen, cut := make(chan struct{}), make(chan time.Time)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		seen <- struct{}{}
		<-r.Context().Done()
		cut <- time.Now()
	}))
	defer server.Close()
	s := openTo(b, launchers[0], server, Rule{})
	open := s.policy.Network
	change := audit.Change{By: "a benchmark", Reason: "it measures"}
	var l lane
	for b.Loop() {
		cmd := s.Command(context.Background(), Self, fmt.Sprintf("http://api.example.com:%d/", portOf(server)))
		cmd.Env = []string{roleVar + "=download"}
		require.NoError(b, cmd.Start())
		<-seen
		began := time.Now()
		require.NoError(b, s.SetNetwork(context.Background(), Network{}, change))
		l.took = append(l.took, (<-cut).Sub(began))
		_ = cmd.Wait()
		require.NoError(b, s.SetNetwork(context.Background(), open, change))
	}
	b.ReportMetric(l.quantile(0.5), "ms-to-effect")
	b.ReportMetric(l.quantile(0.99), "p99-ms-to-effect")
	b.ReportMetric(0, "ns/op")
}
