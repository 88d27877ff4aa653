package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/examples/internal/setup"
)

// A world is everything outside the host: the vendors, which check tokens and
// write down each request. It runs in another process than the host, and what is
// not in its journal has not happened.
type world struct {
	mu      sync.Mutex
	news    chan struct{} // closed, and made anew, with each change
	journal []*entry
	tokens  map[string][]string // that a vendor accepts, the newest last

	github, slack *httptest.Server // MCP servers
	model, forge  *httptest.Server
}

// An entry is one request that reached a vendor.
type entry struct {
	vendor  string
	agent   string // whose trace it has
	trace   string
	get     bool // its method is GET
	held    bool // it gets no answer
	token   int  // which of the vendor's tokens it brought, from 1; 0: none that counts
	started time.Time
	ended   time.Time // zero while it is under way
	cut     bool      // whoever asked hung up
	text    string    // of a post
}

// vendors are the names of the vendors, and of the credentials for them.
var vendors = []string{"github", "slack", "model", "forge"}

const gitHost = "git.example.com"

func newWorld(dir string) (*world, error) {
	w := &world{news: make(chan struct{}), tokens: map[string][]string{}}
	forge, err := newForge(dir)
	if err != nil {
		return nil, err
	}
	w.github = w.serve("github", serveMCP(githubServer()), readMCP)
	w.slack = w.serve("slack", serveMCP(slackServer()), readMCP)
	w.model = w.serve("model", http.HandlerFunc(think), readModel)
	w.forge = w.serve("forge", forge, readGit)
	return w, nil
}

func (w *world) close() {
	for _, s := range []*httptest.Server{w.github, w.slack, w.model, w.forge} {
		s.CloseClientConnections()
		s.Close()
	}
}

// url is where a vendor is.
func (w *world) url(vendor string) string {
	return map[string]*httptest.Server{"github": w.github, "slack": w.slack, "model": w.model, "forge": w.forge}[vendor].URL
}

// serve is a vendor: it wants one of its tokens, and writes down what read makes
// out to be a call.
func (w *world) serve(vendor string, next http.Handler, read func(*http.Request, []byte, *entry) bool) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 64<<20))
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		e := &entry{vendor: vendor, trace: traceID(r.Header.Get("Traceparent")), get: r.Method == http.MethodGet, started: time.Now(), token: w.known(vendor, r)}
		counts := read(r, body, e)
		e.agent = agentOf(e.trace)
		if counts || e.token == 0 {
			w.begin(e)
			hangUp := context.AfterFunc(r.Context(), func() { w.end(e, true) })
			defer func() { hangUp(); w.end(e, e.held) }() // what is held ends in no other way
		}
		switch {
		case e.token == 0:
			rw.Header().Set("WWW-Authenticate", `Basic realm="vendor"`)
			http.Error(rw, `{"error":"bad credentials"}`, http.StatusUnauthorized)
		case e.held && vendor != "model":
			<-r.Context().Done()
		default:
			next.ServeHTTP(rw, r)
		}
	}))
}

// known says which of its tokens a vendor was shown.
func (w *world) known(vendor string, r *http.Request) int {
	shown := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, password, ok := r.BasicAuth(); ok {
		shown = password
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.tokens[vendor], shown); shown != "" && i >= 0 {
		return i + 1
	}
	return 0
}

// issue makes a new token for a vendor, beside those that it accepts.
func (w *world) issue(vendor string) string {
	token := setup.Token()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens[vendor] = append(w.tokens[vendor], token)
	return token
}

// withdraw makes all tokens of a vendor but the newest void.
func (w *world) withdraw(vendor string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range len(w.tokens[vendor]) - 1 {
		w.tokens[vendor][i] = ""
	}
}

// secrets are all tokens that are good now.
func (w *world) secrets() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tokens := range w.tokens {
		all = append(all, tokens[len(tokens)-1])
	}
	return all
}

func (w *world) begin(e *entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.journal = append(w.journal, e)
	w.changed()
}

// end takes note of the end of a request, the first time.
func (w *world) end(e *entry, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.ended.IsZero() {
		e.ended, e.cut = time.Now(), cut
		w.changed()
	}
}

// changed tells those that wait. The caller holds mu.
func (w *world) changed() {
	close(w.news)
	w.news = make(chan struct{})
}

// entries are those of the journal that is is true of, as they are now.
func (w *world) entries(is func(entry) bool) (found []entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.journal {
		if is(*e) {
			found = append(found, *e)
		}
	}
	return found
}

// patience is how long anything here may take on a machine that has more to do.
const patience = 2 * time.Minute

// await waits until the journal is so.
func (w *world) await(ctx context.Context, what string, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		w.mu.Lock()
		news := w.news
		w.mu.Unlock()
		if so() {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		}
	}
}

// readMCP knows calls of tools from the rest that MCP clients say.
func readMCP(_ *http.Request, body []byte, e *entry) bool {
	var m struct {
		Method string
		Params struct {
			Arguments struct {
				Number *int
				Text   string
			}
			Meta struct{ Traceparent string } `json:"_meta"`
		}
	}
	if json.Unmarshal(body, &m) != nil || m.Method != "tools/call" {
		return false
	}
	e.trace, e.text = traceID(m.Params.Meta.Traceparent), m.Params.Arguments.Text
	e.held = m.Params.Arguments.Number != nil && *m.Params.Arguments.Number == 0
	return true
}

func readModel(_ *http.Request, body []byte, e *entry) bool {
	e.held = bytes.Contains(body, []byte(holdWord))
	return true
}

func readGit(r *http.Request, _ []byte, e *entry) bool {
	e.held = strings.HasPrefix(r.URL.Path, "/hold.git/")
	return true
}

// think is a model: a few events, or, for who asks it to hold on, events without
// end.
func think(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // in memory
	hold := bytes.Contains(body, []byte(holdWord))
	w.Header().Set("Content-Type", "text/event-stream")
	say := func(event string) error {
		_, err := fmt.Fprintf(w, "data: %s\n\n", event)
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		return err
	}
	const head = `{"id":"c1","object":"chat.completion.chunk","created":1,"model":"night",`
	for n := 0; n < 5 || hold; n++ {
		if say(head+`"choices":[{"index":0,"delta":{"role":"assistant","content":"word "},"finish_reason":null}]}`) != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
	_ = say(head + `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`)
	_ = say(head + `"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}`)
	_ = say("[DONE]")
}

type (
	pullArgs struct {
		Number int `json:"number" jsonschema:"the pull request's number"`
	}
	postArgs struct {
		Channel string `json:"channel" jsonschema:"the channel, with its #"`
		Text    string `json:"text" jsonschema:"what to post"`
	}
	announceArgs struct {
		Text string `json:"text" jsonschema:"what to announce to everybody"`
	}
)

func githubServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "github", Version: "1.0.0"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "get_pull_request", Description: "Read one pull request."}, answer[pullArgs])
	return s
}

func slackServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "slack", Version: "1.0.0"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "post_message", Description: "Post a message to a channel."}, answer[postArgs])
	mcp.AddTool(s, &mcp.Tool{Name: "announce", Description: "Tell everybody."}, answer[announceArgs])
	return s
}

func answer[In any](context.Context, *mcp.CallToolRequest, In) (*mcp.CallToolResult, any, error) {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done"}}}, nil, nil
}

func serveMCP(s *mcp.Server) http.Handler {
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
}

// newForge makes a repository for each agent, served by git's own program.
func newForge(dir string) (http.Handler, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("git %s: %w\n%s", args[0], err, out)
		}
		return strings.TrimSpace(string(out)), err
	}
	for _, name := range agentNames {
		bare := filepath.Join(dir, "team", name+".git")
		if _, err := git("init", "-q", "--bare", "-b", "main", bare); err != nil {
			return nil, err
		}
		if _, err := git("-C", bare, "config", "http.receivepack", "true"); err != nil {
			return nil, err
		}
	}
	programs, err := git("--exec-path")
	return &cgi.Handler{
		Path: filepath.Join(programs, "git-http-backend"), Stderr: io.Discard, Logger: log.New(io.Discard, "", 0), // who hangs up is no news
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=bot", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}, err
}
