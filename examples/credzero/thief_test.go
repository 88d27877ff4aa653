//go:build linux && (amd64 || arm64)

package credzero

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A task is what the thief is told: every name there is, and where on the host
// the real servers listen.
type task struct {
	APIs  []string
	Real  []string // host:port
	Paths []string
	Names []string
}

// thief is the agent's main. It reads all that it can get at, in every way that
// it can think of, and writes that down. Errors are written down as well: they
// are what an agent sees.
func thief(arg string) {
	var job task
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		panic(err)
	}
	out := os.Stdout
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	say("== environment %q %q", os.Environ(), os.Args)
	client := &http.Client{Timeout: time.Minute}
	for _, name := range job.APIs {
		for _, path := range job.Paths {
			for _, method := range []string{"GET", "POST", "HEAD", "TRACE"} {
				fetch(ctx, client, out, method, "https://"+name+path)
			}
		}
		fetch(ctx, client, out, "GET", "http://"+name+"/raw")
		fetch(ctx, client, out, "GET", "https://"+name+"/a/../raw")
		fetch(ctx, client, out, "GET", "https://user:password@"+name+"/raw")
		say("== in pieces %s: %s", name, pieces(ctx, client, "https://"+name+"/range"))
	}
	for _, at := range job.Real {
		fetch(ctx, client, out, "GET", "http://"+at+"/raw")
	}
	for _, name := range job.Names {
		_, err := net.DefaultResolver.LookupHost(ctx, name)
		say("== host %s: %v", name, err)
		text, err := net.DefaultResolver.LookupTXT(ctx, name)
		say("== txt %s: %v %v", name, text, err)
		cname, err := net.DefaultResolver.LookupCNAME(ctx, name)
		say("== cname %s: %s %v", name, cname, err)
	}

	for _, stream := range []bool{false, true} {
		for _, say := range []string{"echo", "error"} {
			body := fmt.Sprintf(`{"model":"m","stream":%v,"max_tokens":9,"messages":[{"role":"user","content":%q}]}`, stream, say)
			req, err := http.NewRequestWithContext(ctx, "POST", "https://inference.local/v1/chat/completions", strings.NewReader(body))
			if err == nil {
				req.Header.Set("Content-Type", "application/json")
				do(client, out, req)
			}
		}
	}
	tools(ctx, out)

	for _, root := range []string{"/sandbox", "/tmp", "/etc", "/run", "/var", "/home", "/root", "/opt", "/dev", "/srv", "/mnt", "/sys/fs"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			show(out, path)
			return nil
		})
	}
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, pid := range pids {
		for _, f := range []string{"environ", "cmdline", "maps", "mountinfo", "status", "auxv"} {
			show(out, pid+"/"+f)
		}
		fds, _ := os.ReadDir(pid + "/fd")
		for _, fd := range fds {
			to, err := os.Readlink(pid + "/fd/" + fd.Name())
			say("== %s/fd/%s -> %s %v", pid, fd.Name(), to, err)
		}
		memory(out, pid)
	}
	say("== the end")
}

// show writes down a file, or why it cannot be read.
func show(out io.Writer, path string) {
	f, err := os.Open(path)
	if err != nil {
		fmt.Fprintf(out, "== %s: %v\n", path, err)
		return
	}
	defer f.Close()
	fmt.Fprintf(out, "== %s\n", path)
	_, _ = io.CopyN(out, f, 1<<20)
}

// memory writes down all of a process's memory that can be read.
func memory(out io.Writer, pid string) {
	maps, err := os.ReadFile(pid + "/maps")
	if err != nil {
		fmt.Fprintf(out, "== %s/maps: %v\n", pid, err)
		return
	}
	mem, err := os.Open(pid + "/mem")
	if err != nil {
		fmt.Fprintf(out, "== %s/mem: %v\n", pid, err)
		return
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		lo, hi, ok := strings.Cut(fields[0], "-")
		if !ok || !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		a, _ := strconv.ParseUint(lo, 16, 64)
		b, _ := strconv.ParseUint(hi, 16, 64)
		_, _ = io.Copy(out, io.NewSectionReader(mem, int64(a), int64(min(b-a, 64<<20))))
	}
}

func fetch(ctx context.Context, client *http.Client, out io.Writer, method, url string, header ...string) {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader("a=b")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		fmt.Fprintf(out, "== %s %s: %v\n", method, url, err)
		return
	}
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	do(client, out, req)
}

func do(client *http.Client, out io.Writer, req *http.Request) {
	resp, err := client.Do(req)
	if err != nil {
		fmt.Fprintf(out, "== %s %s: %v\n", req.Method, req.URL, err)
		return
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Fprintf(out, "== %s %s: %s %v\n%v %v\n%s\n", req.Method, req.URL, resp.Status, err, resp.Header, resp.Trailer, b)
}

// pieces asks for an answer in pieces that are too short to hold a secret, and
// puts them together.
func pieces(ctx context.Context, client *http.Client, url string) (all []byte) {
	for at := 0; at < 600; at += 20 {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return all
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+19))
		resp, err := client.Do(req)
		if err != nil {
			return all
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if all = append(all, b...); resp.StatusCode != http.StatusPartialContent {
			return all
		}
	}
	return all
}

// tools calls every tool there is, and writes down answers and errors.
func tools(ctx context.Context, out io.Writer) {
	session, err := mcp.NewClient(&mcp.Implementation{Name: "thief", Version: "1"}, nil).
		Connect(ctx, &mcp.StreamableClientTransport{Endpoint: "https://tools.local/mcp"}, nil)
	if err != nil {
		fmt.Fprintf(out, "== tools: %v\n", err)
		return
	}
	defer session.Close()
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			fmt.Fprintf(out, "== tools/list: %v\n", err)
			return
		}
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool.Name, Arguments: map[string]any{}})
		b, _ := json.Marshal(res)
		fmt.Fprintf(out, "== tool %s: %s %v\n", tool.Name, b, err)
	}
}
