//go:build linux && (amd64 || arm64)

package sandbox

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// hostGit runs git on the host, without the settings of whoever runs the test.
func hostGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "git %v: %s", args, out)
	return string(out)
}

// forge serves repositories in dir as git's own server does.
func forge(t *testing.T, dir string) http.Handler {
	hostGit(t, dir, "init", "-q", "--bare", "-b", "main", "team/repo.git")
	hostGit(t, filepath.Join(dir, "team/repo.git"), "config", "http.receivepack", "true")
	git := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(hostGit(t, dir, "--exec-path")), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=agent", "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // CGI must know its length
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		git.ServeHTTP(w, r)
	})
}

const gitWork = `
	export GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
	git clone -q "$URL" repo 2>/dev/null; cd repo
	head -c 2000000 /dev/urandom >big; git add big; git commit -q -m "from inside"; git push -q origin HEAD:main
	cd ..; git clone -q --depth 1 "$URL" again; cmp repo/big again/big; git -C again log --format=%s
`

// git clones, commits and pushes to a name that is served by this process, over
// TLS, and to a real server, which is dialled.
func TestWorkGit(t *testing.T) {
	needPrograms(t, "git", "bash")
	eachLauncher(t, func(t *testing.T, opts *Options) {
		served, real := t.TempDir(), t.TempDir()
		server := httptest.NewServer(forge(t, real))
		defer server.Close()
		port := server.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
		opts.Resolver = hosts{"git.example.org.": "127.0.0.1"}
		s := box(t, audittest.NewLog(t), rules(
			Rule{Host: "git.example.com", Served: true},
			Rule{Host: "git.example.org", Ports: []uint16{port}, Private: true},
		), opts)
		require.NoError(t, s.Handle("git.example.com", forge(t, served)))
		assert.Equal(t, "from inside\n", script(t, s, "mkdir served; cd served"+gitWork, "URL=https://git.example.com/team/repo.git"))
		assert.Equal(t, "from inside\n", script(t, s, "mkdir real; cd real"+gitWork, fmt.Sprintf("URL=http://git.example.org:%d/team/repo.git", port)))
		for _, dir := range []string{served, real} {
			assert.Equal(t, "from inside\n", hostGit(t, filepath.Join(dir, "team/repo.git"), "log", "--format=%s", "main"), "the push has arrived")
		}
	})
}

// A pack is an npm package of one version.
type pack struct {
	name  string
	files map[string]string
}

// tarball packs files as npm does.
func (p pack) tarball(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, text := range p.files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "package/" + name, Mode: 0o755, Size: int64(len(text))}))
		_, err := io.WriteString(w, text)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return out.Bytes()
}

// npmRegistry serves version 1.0.0 of packages as registry.npmjs.org does.
func npmRegistry(t *testing.T, packs ...pack) http.Handler {
	mux := http.NewServeMux()
	for _, p := range packs {
		var about map[string]any
		require.NoError(t, json.Unmarshal([]byte(p.files["package.json"]), &about))
		ball := p.tarball(t)
		sum := sha512.Sum512(ball)
		about["dist"] = map[string]string{
			"tarball":   "https://registry.npmjs.org/" + p.name + "/-/ball-1.0.0.tgz",
			"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
		}
		mux.HandleFunc("GET /"+p.name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{
				"name": p.name, "dist-tags": map[string]string{"latest": "1.0.0"}, "versions": map[string]any{"1.0.0": about},
			})
		})
		mux.HandleFunc("GET /"+p.name+"/-/ball-1.0.0.tgz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(ball) })
	}
	return mux
}

// npm installs from the registry that it always uses, runs the scripts of what
// it installs, and runs its programs; no setting tells it of the sandbox.
func TestWorkNpm(t *testing.T) {
	needPrograms(t, "node", "npm", "bash")
	if !full() {
		t.Skip("npm takes its time: with TWINWARD_FULL=1 only")
	}
	registry := npmRegistry(t,
		pack{"tool", map[string]string{
			"package.json": `{"name":"tool","version":"1.0.0","bin":"tool.js","dependencies":{"lib":"^1.0.0"},"scripts":{"install":"node -e \"fs.writeFileSync('built', 'built')\""}}`,
			"tool.js":      "#!/usr/bin/env node\nconsole.log(require('lib'), require('fs').readFileSync(__dirname + '/built', 'utf8'))\n",
		}},
		pack{"lib", map[string]string{"package.json": `{"name":"lib","version":"1.0.0"}`, "index.js": "module.exports = 'it works'\n"}},
	)
	eachLauncher(t, func(t *testing.T, opts *Options) {
		log := audittest.NewLog(t)
		s := box(t, log, rules(Rule{Host: "registry.npmjs.org", Served: true}), opts)
		require.NoError(t, s.Handle("registry.npmjs.org", registry))
		assert.Equal(t, "it works built\n", script(t, s, `
			npm init -y >/dev/null
			npm install --no-audit --no-fund tool >/dev/null
			npx tool
		`, "NPM_CONFIG_UPDATE_NOTIFIER=false"))
		require.NoError(t, s.Close())
		allowed, denied := connects(log.Records())
		assert.NotEmpty(t, allowed)
		for _, a := range allowed {
			assert.Contains(t, a, ` Host::"registry.npmjs.org"`)
		}
		assert.Empty(t, denied)
	})
}

// A server inside is reached from inside, by a command that was started apart,
// and by nobody else.
func TestWorkServer(t *testing.T) {
	needPrograms(t, "node", "python3", "bash")
	eachLauncher(t, func(t *testing.T, opts *Options) {
		s := box(t, audittest.NewLog(t), rules(Rule{Host: "tools.local", Ports: []uint16{443, 80}}), opts)
		require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, audit.ActorFrom(r.Context()).Agent)
		})))
		server := s.Command(t.Context(), "node", "-e",
			`require("http").createServer((q, r) => r.end("hello " + q.url)).listen(3000, () => console.log("up"))`)
		out, err := server.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, server.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "up\n", line)
		_, err = net.Dial("tcp", "127.0.0.1:3000")
		assert.Error(t, err, "the host can see it")
		assert.Equal(t, "hello /node\nhello /python\ntester\ntester\n", script(t, s, `
			node -e 'fetch("http://localhost:3000/node").then(r => r.text()).then(console.log)'
			python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:3000/python").read().decode())'
			node -e 'fetch("https://tools.local/").then(r => r.text()).then(console.log)'
			python3 -c 'import urllib.request as u; print(u.urlopen("https://tools.local/").read().decode())'
		`))
		require.NoError(t, server.Kill())
		assert.Error(t, server.Wait())
	})
}

// go fetches a module through a proxy by its name, builds with it and runs what
// it has built.
func TestWorkGo(t *testing.T) {
	needPrograms(t, "go", "bash")
	if !full() {
		t.Skip("go takes its time: with TWINWARD_FULL=1 only")
	}
	proxy := http.NewServeMux()
	const at = "/example.com/lib/@v/v1.0.0."
	for path, text := range map[string]string{
		"/example.com/lib/@v/list": "v1.0.0\n", at + "info": `{"Version":"v1.0.0"}`, at + "mod": "module example.com/lib\n",
	} {
		proxy.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	proxy.HandleFunc("GET "+at+"zip", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(moduleZip(t)) })
	out, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	goroot, cache := strings.TrimSpace(string(out)), t.TempDir()
	eachLauncher(t, func(t *testing.T, opts *Options) {
		p := rules(Rule{Host: "proxy.golang.org", Served: true})
		p.Filesystem = Filesystem{ReadOnly: append(SystemPaths(), goroot), ReadWrite: []string{cache}}
		s := box(t, audittest.NewLog(t), p, opts)
		require.NoError(t, s.Handle("proxy.golang.org", proxy))
		assert.Equal(t, "it works\n", script(t, s, `
			go mod init example.com/app 2>/dev/null
			printf 'package main\nimport "example.com/lib"\nfunc main() { println(lib.Text) }\n' >app.go
			go get example.com/lib@latest 2>/dev/null
			go build -o app . && ./app 2>&1
		`, "PATH=/usr/bin:/bin:"+goroot+"/bin", "GOCACHE="+cache, "GOPATH=/tmp/go", "GOTOOLCHAIN=local", "GOSUMDB=off", "GOFLAGS=-modcacherw"))
	})
}

// moduleZip is version 1.0.0 of example.com/lib.
func moduleZip(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for name, text := range map[string]string{"go.mod": "module example.com/lib\n", "lib.go": "package lib\n\nconst Text = \"it works\"\n"} {
		w, err := z.Create("example.com/lib@v1.0.0/" + name)
		require.NoError(t, err)
		_, err = io.WriteString(w, text)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return out.Bytes()
}
