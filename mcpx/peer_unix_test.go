//go:build unix

package mcpx_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// BenchmarkBesideSupergateway is a call of a stdio server over HTTP: through a
// gateway that decides it and has it on disk before it is sent, and through
// supergateway (npm), which does neither. They take turns, a session each.
func BenchmarkBesideSupergateway(b *testing.B) {
	program, err := exec.LookPath("supergateway")
	if err != nil {
		b.Skipf("%v: .ci/bench installs it", err)
	}
	self, err := os.Executable()
	require.NoError(b, err)

	log, err := audit.Open(b.TempDir()+"/log", nil)
	require.NoError(b, err)
	b.Cleanup(func() { log.Close() })
	catalog, err := mcpx.Catalog(b.Context(), "child", childServer())
	require.NoError(b, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(b.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in Action::"call_tool", resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(b, err)
	gw := mcpx.NewGateway(engine, log, nil)
	b.Cleanup(func() { gw.Close() })
	c := &children{kind: "server"}
	require.NoError(b, gw.AddUpstream(b.Context(), mcpx.Stdio("child", c.command)))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	peer := exec.Command(program, "--stdio", "env MCPX_TEST_CHILD=server "+self, "--outputTransport", "streamableHttp", "--stateful", "--port", port, "--logLevel", "none")
	peer.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it leaves its child behind
	require.NoError(b, peer.Start())
	b.Cleanup(func() {
		_ = syscall.Kill(-peer.Process.Pid, syscall.SIGKILL)
		_ = peer.Wait()
	})
	url := "http://127.0.0.1:" + port
	require.Eventually(b, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	}, time.Minute, 50*time.Millisecond, "supergateway does not listen")

	sides := []struct {
		name string
		call func() (*mcp.CallToolResult, error)
		took []float64
	}{{name: "gateway"}, {name: "supergateway"}}
	ours := mcptest.Connect(b, mcptest.Door(b, gw, bot).URL, &mcptest.ConnectOptions{Version: legacy})
	theirs := mcptest.Connect(b, url+"/mcp", &mcptest.ConnectOptions{Version: legacy})
	sides[0].call = func() (*mcp.CallToolResult, error) { return ours.Call(b.Context(), "child__pid", `{}`) }
	sides[1].call = func() (*mcp.CallToolResult, error) { return theirs.Call(b.Context(), "pid", `{}`) }
	for b.Loop() {
		for i := range sides {
			for j := range 105 {
				start := time.Now()
				res, err := sides[i].call()
				require.NoError(b, err)
				require.False(b, res.IsError)
				if j >= 5 { // the first ones find caches cold
					sides[i].took = append(sides[i].took, float64(time.Since(start).Microseconds()))
				}
			}
		}
	}
	for _, s := range sides {
		b.ReportMetric(median(s.took, 0.5), s.name+"-p50-µs")
		b.ReportMetric(median(s.took, 0.99), s.name+"-p99-µs")
	}
	b.ReportMetric(median(sides[0].took, 0.5)/median(sides[1].took, 0.5), "p50-ratio")
	b.ReportMetric(0, "ns/op")
}
