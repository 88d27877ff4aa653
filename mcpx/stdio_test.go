package mcpx_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// hop is the process of a benchmark, where there is one.
var hop func() error

// The test binary is also the child process of the tests over stdio.
func TestMain(m *testing.M) {
	switch os.Getenv("MCPX_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "server":
		childServer().Run(context.Background(), &mcp.StdioTransport{})
		os.Exit(0)
	case "talkative":
		talkative()
		childServer().Run(context.Background(), &mcp.StdioTransport{})
		os.Exit(0)
	case "wiki", "wiki-changed":
		mortalWiki(os.Getenv("MCPX_TEST_CHILD") != "wiki").Run(context.Background(), &mcp.StdioTransport{})
		os.Exit(0)
	case "jobs":
		newJobServer().whole().Run(context.Background(), &mcp.StdioTransport{})
		os.Exit(0)
	case "conformance":
		if err := conformanceClient(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	case "through":
		if err := conformanceThrough(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	case "hop":
		if err := hop(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	case "deaf":
		select {}
	case "garbage":
		os.Stdout.WriteString("this is not JSON\n")
		os.Exit(3)
	}
}

func childServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "child", Version: "1"}, nil)
	raw := json.RawMessage(`{"type":"object"}`)
	s.AddTool(&mcp.Tool{Name: "pid", Description: "Says which process it is.", InputSchema: raw}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: strconv.Itoa(os.Getpid())}}, StructuredContent: json.RawMessage(`{"n":9007199254740993}`)}, nil
	})
	s.AddTool(&mcp.Tool{Name: "env", Description: "Shows its environment.", InputSchema: raw}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		b, _ := json.Marshal(os.Environ())
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(b)}}}, nil
	})
	s.AddTool(&mcp.Tool{Name: "die", Description: "Ends.", InputSchema: raw}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		os.Exit(3)
		return nil, nil
	})
	s.AddTool(&mcp.Tool{Name: "digest", Description: "Says which secret it has, once a file is gone.", InputSchema: raw}, func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		var args struct{ Until string }
		_ = json.Unmarshal(req.Params.Arguments, &args)
		for args.Until != "" && ctx.Err() == nil {
			if _, err := os.Stat(args.Until); err != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: digestOf(os.Getenv("TOKEN"))}}}, nil
	})
	s.AddTool(&mcp.Tool{Name: "hang", Description: "Hangs.", InputSchema: raw}, func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	return s
}

// children starts children of one kind and remembers them.
type children struct {
	mu   sync.Mutex
	kind string
	all  []*exec.Cmd
}

func (c *children) command(ctx context.Context) *exec.Cmd {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kind == "panic" {
		c.all = append(c.all, nil)
		panic("the host's own code")
	}
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = []string{"MCPX_TEST_CHILD=" + c.kind, "GORACE=" + os.Getenv("GORACE")}
	if dir := os.Getenv("SYSTEMROOT"); dir != "" {
		cmd.Env = append(cmd.Env, "SYSTEMROOT="+dir)
	}
	c.all = append(c.all, cmd)
	return cmd
}

func stdioWorld(t *testing.T, c *children, opts *mcpx.GatewayOptions) (*audittest.Log, *mcpx.Gateway) {
	t.Helper()
	log := audittest.NewLog(t)
	catalog, err := mcpx.Catalog(t.Context(), "child", childServer())
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in Action::"call_tool", resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	gw := mcpx.NewGateway(engine, log, opts)
	t.Cleanup(func() { gw.Close() })
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.Stdio("child", func(ctx context.Context) mcpx.Command {
		if c.kind == "none" {
			return mcpx.NoCommand(errors.New("there is no such program"))
		}
		return c.command(ctx)
	})))
	return log, gw
}

func TestStdioUpstream(t *testing.T) {
	t.Setenv("HOST_SECRET", "hunter2")
	c := &children{kind: "server"}
	log, gw := stdioWorld(t, c, nil)
	a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
	b := mcptest.Connect(t, mcptest.Door(t, gw, other).URL, &mcptest.ConnectOptions{Version: legacy})
	pid := func(a *mcptest.Agent) string {
		res, err := a.Call(t.Context(), "child__pid", `{}`)
		require.NoError(t, err)
		require.False(t, res.IsError, mcptest.Text(res))
		return mcptest.Text(res)
	}
	first := pid(a)
	assert.Equal(t, first, pid(a), "an actor keeps its process")
	assert.NotEqual(t, first, pid(b), "and shares it with nobody")
	assert.Contains(t, string(a.Seen()), `{"n":9007199254740993}`)
	res, err := a.Call(t.Context(), "child__env", `{}`)
	require.NoError(t, err)
	assert.NotContains(t, mcptest.Text(res), "hunter2")

	// A child that dies fails its call, and is started again for the next.
	res, err = a.Call(t.Context(), "child__die", `{}`)
	require.NoError(t, err)
	assert.Equal(t, "upstream-broken", denial(t, res).Reason)
	recs := log.Records()
	assert.Equal(t, "upstream-broken", recs[len(recs)-1].Outcome.ErrorCode)
	assert.NotEqual(t, first, pid(a))
	assert.Len(t, c.all, 3)
	require.NoError(t, gw.Close())
	for _, cmd := range c.all {
		assert.NotNil(t, cmd.ProcessState, "no child is left")
	}
}

// A child that hangs, reads nothing, writes garbage or cannot be made costs its
// call and no more.
func TestStdioUpstreamMisbehaves(t *testing.T) {
	for kind, want := range map[string]string{"deaf": "timeout", "garbage": "upstream-down", "none": "upstream-down"} {
		t.Run(kind, func(t *testing.T) {
			c := &children{kind: kind}
			opts := &mcpx.GatewayOptions{}
			if kind == "deaf" {
				opts.CallTimeout = 300 * time.Millisecond
			}
			log, gw := stdioWorld(t, c, opts)
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			res, err := a.Call(t.Context(), "child__pid", `{}`)
			require.NoError(t, err)
			assert.Equal(t, want, denial(t, res).Reason)
			recs := log.Records()
			assert.Equal(t, audit.StatusFailed, recs[len(recs)-1].Outcome.Status)
			require.NoError(t, gw.Close())
			for _, cmd := range c.all {
				assert.NotNil(t, cmd.ProcessState, "no child is left")
			}
		})
	}
}

func TestInMemoryUpstream(t *testing.T) {
	log := audittest.NewLog(t)
	server := childServer()
	catalog, err := mcpx.Catalog(t.Context(), "child", server)
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal, action in Action::"call_tool", resource);`}},
		Catalog:  []governance.Server{catalog},
	}, admin)
	require.NoError(t, err)
	gw := mcpx.NewGateway(engine, log, &mcpx.GatewayOptions{CallTimeout: 2 * time.Second})
	defer gw.Close()
	require.NoError(t, gw.AddUpstream(t.Context(), mcpx.InMemory("child", server)))
	a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
	res, err := a.Call(t.Context(), "child__hang", `{}`)
	require.NoError(t, err)
	assert.Equal(t, "timeout", denial(t, res).Reason)
	res, err = a.Call(t.Context(), "child__pid", `{}`)
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(os.Getpid()), mcptest.Text(res))
}
