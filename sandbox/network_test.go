//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

var byAlice = audit.Change{By: "alice", Reason: "OPS-7"}

// echoServer sends back what it gets, on a loopback port.
func echoServer(t *testing.T) (port uint16) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// A living session gets another network: names and ports come and go, and what
// is not allowed any more is cut.
func TestSetNetwork(t *testing.T) {
	log := audittest.NewLog(t)
	port := echoServer(t)
	real := Rule{Host: "real.example.com", Ports: []uint16{port}, Private: true}
	tools := Rule{Host: "tools.local", Ports: []uint16{443}}
	s := box(t, log, rules(tools), &Options{Self: true, Resolver: hosts{"real.example.com.": "127.0.0.1"}, Governed: []string{"api.github.com"}})
	require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "tools") })))
	talk := fmt.Sprintf("talk real.example.com:%d", port)
	assert.Equal(t, []string{"200 tools", "no such host"}, try(t, s, "get https://tools.local/", talk))

	before := s.policyHash()
	require.NoError(t, s.SetNetwork(t.Context(), Network{Allow: []Rule{real}}, byAlice))
	after := s.policyHash()
	assert.NotEqual(t, before, after)
	assert.Equal(t, []string{"no such host", "hello"}, try(t, s, "get https://tools.local/", talk), "a new port has its listener")

	// What cannot be put into force changes nothing.
	bad := Network{Allow: []Rule{{Host: "*"}}}
	var pe *PolicyError
	assert.ErrorAs(t, s.SetNetwork(t.Context(), bad, byAlice), &pe)
	assert.ErrorAs(t, s.SetNetwork(t.Context(), Network{Allow: []Rule{{Host: "api.github.com"}}}, byAlice), &pe, "governed")
	assert.Error(t, s.SetNetwork(t.Context(), Network{}, audit.Change{By: "alice"}), "no reason")
	var fixed *NewSessionError
	p := rules(real)
	p.Process.MaxProcesses = 7
	require.ErrorAs(t, s.SetPolicy(t.Context(), p, byAlice), &fixed)
	assert.Equal(t, "process", fixed.Part)
	p = rules(real)
	p.Environment = Environment{"A": "b"}
	require.ErrorAs(t, s.SetPolicy(t.Context(), p, byAlice), &fixed)
	assert.Equal(t, "environment", fixed.Part)
	log.Fail(assert.AnError)
	assert.ErrorIs(t, s.SetNetwork(t.Context(), Network{}, byAlice), assert.AnError)
	log.Fail(nil)
	assert.Equal(t, after, s.policyHash())
	assert.Equal(t, []string{"no such host", "hello"}, try(t, s, "get https://tools.local/", talk))

	p = rules(real)
	p.Services = []string{"tools.local"}
	require.NoError(t, s.SetPolicy(t.Context(), p, byAlice))
	assert.Equal(t, []string{"200 tools", "hello"}, try(t, s, "get https://tools.local/", talk), "the handler is still there")

	require.NoError(t, s.Close())
	assert.ErrorIs(t, s.SetNetwork(t.Context(), Network{}, byAlice), ErrEnded)
	var changes []*audit.Event
	var exit *audit.Event
	for _, r := range log.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindPolicy {
			changes = append(changes, r.Event)
		}
		if r.Event != nil && r.Event.Kind == audit.KindExit {
			exit = r.Event
		}
	}
	require.Len(t, changes, 2)
	assert.Equal(t, byAlice, *changes[0].Change)
	assert.Equal(t, map[string]string{
		audit.DetailPolicyHash: after, "replaces": before,
		"added": text(real.normal()), "removed": text(tools.normal()),
		"changes": fmt.Sprintf("wider: network.allow: real.example.com on port %d can be reached\nnarrower: network.allow: tools.local on port 443 cannot be reached any more", port),
	}, changes[0].Detail)
	assert.Equal(t, p.Hash(), exit.Detail["policy_hash"])
}

// Programs that speak only proxy find one, and it leads to the same door.
func TestProxyFromInside(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, rules(Rule{Host: "tools.local", Ports: []uint16{443, 80}}), &Options{Self: true, Resolver: noResolver{t}})
	require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", audit.ActorFrom(r.Context()).Agent, r.Host, r.Proto)
	})))
	assert.Equal(t, []string{
		"200 tester tools.local HTTP/2.0", "200 tester tools.local HTTP/1.1",
		"403 the session's policy refuses this: unlisted-host\n", `Get "https://evil.com/": Forbidden`, `Get "https://169.254.169.254/": Forbidden`,
	}, try(t, s, "proxied https://tools.local/", "proxied http://tools.local/",
		"proxied http://evil.com/", "proxied https://evil.com/", "proxied https://169.254.169.254/"))
	require.NoError(t, s.Close())
	allowed, denied := connects(log.Records())
	assert.Equal(t, []string{`ok Host::"tools.local"`, `ok Host::"tools.local"`}, allowed)
	assert.Equal(t, []string{`unlisted-host Host::"evil.com"`, `unlisted-host Host::"evil.com"`, `raw-address Host::"169.254.169.254"`}, denied)
}

// A person is asked about what no rule allows, once for all attempts.
func TestAskFromInside(t *testing.T) {
	log := audittest.NewLog(t)
	var asked []string
	s := box(t, log, rules(), &Options{
		Self: true, Resolver: hosts{"yes.example.com.": "127.0.0.1", "no.example.com.": "93.184.216.34"}, Governed: []string{"https://api.github.com"},
		Ask: func(_ context.Context, a Attempt) Answer {
			asked = append(asked, fmt.Sprintf("%s %s:%d", a.Actor.Agent, a.Host, a.Port))
			assert.Equal(t, Self, a.Program)
			if a.Host == "yes.example.com" {
				return Answer{Verdict: Always, By: "alice"}
			}
			return Answer{By: "alice"}
		},
	})
	// What is allowed is still not dialled at a private address.
	assert.Equal(t, []string{"reset", "reset", "reset", "no such host", "no such host", "reset", `Get "https://no.example.com/": Forbidden`}, try(t, s,
		"tcp yes.example.com:80", "get https://yes.example.com/", "tcp no.example.com:80", "lookup api.github.com", "lookup printer.local", "tcp 9.9.9.9:443",
		"proxied https://no.example.com/"))
	assert.Equal(t, []string{"tester yes.example.com:80", "tester yes.example.com:443", "tester no.example.com:80", "tester no.example.com:443"}, asked)
	assert.Equal(t, []Wish{{Host: "yes.example.com", Port: 80}, {Host: "yes.example.com", Port: 443}}, s.Suggestions())
	next, text, err := rules().Suggest(s.Suggestions()...)
	require.NoError(t, err)
	p, err := LoadPolicy("suggested.yaml", []byte("version: 1\n"+text))
	require.NoError(t, err)
	assert.Equal(t, next.Hash(), p.Hash())
	require.NoError(t, s.SetNetwork(t.Context(), next.Network, byAlice))
	assert.Empty(t, s.Suggestions(), "they are rules by now")
	require.NoError(t, s.Close())
	_, denied := connects(log.Records())
	assert.Equal(t, []string{
		`private-address Host::"yes.example.com"`, `private-address Host::"yes.example.com"`, `approval Host::"no.example.com"`,
		`unlisted-host Host::"api.github.com"`, `unlisted-host Host::"printer.local"`, `raw-address Host::"9.9.9.9"`, `approval Host::"no.example.com"`,
	}, denied[:7], "then come counts")
}

// What the kernel refuses is on record as well, if that is asked for.
func TestRecordProbes(t *testing.T) {
	for _, l := range launchers {
		t.Run(string(l), func(t *testing.T) { testRecordProbes(t, l) })
	}
}

func testRecordProbes(t *testing.T, l Launcher) {
	log := audittest.NewLog(t)
	s := box(t, log, rules(Rule{Host: "tools.local", Ports: []uint16{443}}), &Options{Self: true, RecordProbes: true, Launcher: l})
	require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "tools") })))
	want := []string{
		`unlisted-port Host::"tools.local" tcp 22`, `raw-address Host::"93.184.216.34" tcp 22`, `raw-address Host::"2606:4700::1111" tcp 22`,
		`raw-address Host::"8.8.8.8" udp 123`, `raw-address Host::"2606:4700::1111" udp 443`, `unlisted-port Host::"tools.local" udp 443`,
		`raw-address Host::"9.9.9.9" tcp 853`,
	}
	assert.Equal(t, []string{"refused", "refused", "refused", "refused", "refused", "refused", "refused", "refused", "200 tools", "reset", "refused"}, try(t, s,
		"tcp tools.local:22", "tcp 93.184.216.34:22", "tcp [2606:4700::1111]:22", "udp 8.8.8.8:123", "udp [2606:4700::1111]:443", "udp tools.local:443",
		"tcp 127.0.0.1:9", "udp 127.0.0.1:9", // stays inside
		"get https://tools.local/", "tcp 9.9.9.9:443", // not refused by the kernel
		"tcp 9.9.9.9:853"))
	var got []string
	for range 2000 { // it comes in order, but later
		got = nil
		for _, r := range log.Records() {
			if r.Event != nil && r.Event.Kind == audit.KindProbe {
				assert.Equal(t, "kernel", r.Event.Source)
				p := fmt.Sprintf("%s %s %s %s", r.Event.Decision.Reason, r.Event.Resource, r.Event.Detail["protocol"], r.Event.Detail["port"])
				if !slices.Contains(got, p) {
					got = append(got, p)
				}
			}
		}
		if len(got) == len(want) {
			break
		}
		time.Sleep(5 * time.Millisecond) // only to let others run
	}
	assert.Equal(t, want, got)
	require.NoError(t, s.Close())
}
