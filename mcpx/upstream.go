package mcpx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/credential"
)

// An Upstream is one MCP server behind the gateway. Make it with [HTTP],
// [Stdio] or [InMemory] and set its fields before [Gateway.AddUpstream].
type Upstream struct {
	// Name is how policy and catalogue call the server: [a-z0-9-]{1,32}.
	Name string
	// Credential names the secret in the vault that requests to this upstream
	// carry; empty means none. Who may use it is the Cedar action
	// use_credential. A child process gets its secret as it starts: see
	// [StdioWith].
	Credential string
	// Transport carries the requests of an upstream over HTTP; nil means a
	// transport of its own with the proxy settings of the environment.
	Transport http.RoundTripper
	// OwnNames offers the tools and prompts of this upstream under their own
	// names, and not as "<server>__<name>", for clients that know them so. At
	// most one upstream of a gateway may be. Policy calls them as ever.
	OwnNames bool

	// Roots lets the server ask clients for their roots, which are names of their
	// folders, where policy permits it the action elicit. Otherwise nobody tells.
	Roots bool

	modern *atomic.Bool // it spoke 2026-07-28 or later when it was last connected

	origin   string   // scheme://host[:port] for HTTP; of a child process that gets a secret
	endpoint *url.URL // for HTTP
	child    bool     // it is given its secret as it starts
	dial     func(ctx context.Context, u *Upstream, w *wire) (mcp.Transport, func() error, error)
	err      error
}

// HTTP is a server that speaks streamable HTTP at an absolute http or https
// URL. Redirects are not followed.
func HTTP(name, endpoint string) *Upstream {
	u := &Upstream{Name: name}
	at, err := url.Parse(endpoint)
	switch {
	case err != nil:
		u.err = errors.New("its URL does not parse")
	case (at.Scheme != "http" && at.Scheme != "https") || at.Host == "":
		u.err = errors.New("its URL must be absolute, with http or https")
	case at.User != nil:
		u.err = errors.New("its URL holds a password: put it in the vault and name it in Credential")
	default:
		u.origin, u.endpoint = at.Scheme+"://"+at.Host, at
	}
	u.dial = func(_ context.Context, u *Upstream, w *wire) (mcp.Transport, func() error, error) {
		base := u.Transport
		var idle func()
		if base == nil {
			own := plainTransport()
			own.MaxIdleConnsPerHost = 32   // an agent may well have more than two calls under way
			own.WriteBufferSize = 32 << 10 // nearly every call goes out in one write
			base, idle = own, own.CloseIdleConnections
		}
		w.direct = &carrier{base: base, credentialed: u.Credential != "", wire: w}
		t := &mcp.StreamableClientTransport{
			Endpoint:             endpoint,
			MaxRetries:           maxResumes, // of streams: a call is made once
			DisableStandaloneSSE: true,       // see Gateway.hearAll
			HTTPClient: &http.Client{
				Transport: w.direct,
				CheckRedirect: func(*http.Request, []*http.Request) error {
					return errRedirect
				},
			},
		}
		return t, func() error {
			if idle != nil {
				idle()
			}
			return nil
		}, nil
	}
	return u
}

// plainTransport is a copy of Go's default one, or the like of it if the host has put
// something else in its place.
func plainTransport() *http.Transport {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		return t.Clone()
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
}

var errRedirect = errors.New("mcpx: the upstream redirects, and redirects are not followed")

// A Command is a child process that speaks MCP on its standard streams:
// *exec.Cmd, and the commands of a sandbox session.
type Command interface {
	StdinPipe() (io.WriteCloser, error)
	StdoutPipe() (io.ReadCloser, error)
	Start() error
	Wait() error
}

// NoCommand is a [Command] that cannot be started, because of err: for a command
// function that fails before it has one.
func NoCommand(err error) Command { return noCommand{err} }

type noCommand struct{ err error }

func (c noCommand) StdinPipe() (io.WriteCloser, error) { return nil, c.err }
func (c noCommand) StdoutPipe() (io.ReadCloser, error) { return nil, c.err }
func (c noCommand) Start() error                       { return c.err }
func (c noCommand) Wait() error                        { return c.err }

// Stdio is a server that is a child process. Each actor gets a process of its
// own, made by command when it first calls, and again after it has ended.
// Cancelling the context given to command must end the process, as
// exec.CommandContext does. Its environment is what command gives it; set it
// explicitly, since os/exec inherits this process's by default. What it says on
// its standard error goes to [GatewayOptions.Logger], without the vault's
// secrets, unless the command has a Stderr of its own.
func Stdio[C Command](name string, command func(ctx context.Context) C) *Upstream {
	u := &Upstream{Name: name}
	if command == nil {
		u.err = errors.New("command is nil")
	}
	u.dial = func(_ context.Context, _ *Upstream, w *wire) (mcp.Transport, func() error, error) {
		ctx, cancel := context.WithCancel(context.Background())
		t, stop, err := startChild(command(ctx), cancel, w.hearer)
		if err != nil {
			cancel()
			return nil, nil, err
		}
		return t, stop, nil
	}
	return u
}

// StdioWith is Stdio for a server that needs a secret. The vault binds it to
// credential.ProcessOrigin(name), with the scheme credential.Env or
// credential.Descriptor. Command adds what it is given to the command that it
// makes, the files before any of its own:
//
//	func(ctx context.Context, h *credential.Handover) *exec.Cmd {
//		cmd := exec.CommandContext(ctx, "mcp-server")
//		cmd.Env, cmd.ExtraFiles = append(allowed, h.Env...), h.Files
//		return cmd
//	}
//
// When the secret is rotated, the next call starts a new process with the new
// value, and the old process ends as soon as its last call is done, or after a
// minute without calls. If the new process does not start, the old one serves
// as long as its version may be used. When no version may be used any more, the
// processes end within about a second of the vault's knowing it, and calls under
// way in them fail.
func StdioWith[C Command](name, secret string, command func(ctx context.Context, h *credential.Handover) C) *Upstream {
	u := &Upstream{Name: name, Credential: secret, origin: credential.ProcessOrigin(name), child: true}
	if command == nil {
		u.err = errors.New("command is nil")
	}
	u.dial = func(call context.Context, _ *Upstream, w *wire) (mcp.Transport, func() error, error) {
		c := carriageOf(call)
		if c == nil || c.lease == nil {
			return nil, nil, errNoLease
		}
		const firstFree = 3 // after the standard streams
		h, err := c.lease.Handover(firstFree)
		if err != nil {
			return nil, nil, err
		}
		defer h.Close()
		ctx, cancel := context.WithCancel(context.Background())
		t, stop, err := startChild(command(ctx, h), cancel, w.hearer)
		if err != nil {
			cancel()
			return nil, nil, err
		}
		return t, stop, nil
	}
	return u
}

// childGrace is how long a child may take to end after its input has ended.
const childGrace = 2 * time.Second

func startChild(cmd Command, kill context.CancelFunc, h *hearer) (mcp.Transport, func() error, error) {
	if cmd == nil {
		return nil, nil, errors.New("mcpx: the command is nil")
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("mcpx: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("mcpx: %w", err)
	}
	stderr := h.pipe(cmd)
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("mcpx: %w", err)
	}
	ended := h.listen(stderr)
	stop := func() error {
		stdin.Close()
		timer := time.AfterFunc(childGrace, kill)
		heard(ended)
		cmd.Wait() // how it ended is of no interest: it was told to
		timer.Stop()
		kill()
		return nil
	}
	return &mcp.IOTransport{Reader: io.NopCloser(stdout), Writer: stdin}, stop, nil
}

// InMemory is a server in this process, for tests and for tools of the host.
func InMemory(name string, server *mcp.Server) *Upstream {
	u := &Upstream{Name: name}
	if server == nil {
		u.err = errors.New("server is nil")
	}
	u.dial = func(context.Context, *Upstream, *wire) (mcp.Transport, func() error, error) {
		here, there := mcp.NewInMemoryTransports()
		ss, err := server.Connect(context.Background(), there, nil)
		if err != nil {
			return nil, nil, fmt.Errorf("mcpx: %w", err)
		}
		return here, func() error { ss.Close(); return nil }, nil
	}
	return u
}
