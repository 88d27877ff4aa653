//go:build linux && (amd64 || arm64)

package sandbox

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// The programs that people use see an HTTPS host like any other, though each of
// their requests is judged, and hear why when one is refused.
func TestClientsOfInspectedHosts(t *testing.T) {
	var mu sync.Mutex
	reached := map[string]int{}
	repos := t.TempDir()
	needPrograms(t, "git", "bash")
	git := forge(t, repos)
	hostGit(t, repos, "clone", "-q", "team/repo.git", "work")
	hostGit(t, repos+"/work", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "first")
	hostGit(t, repos+"/work", "push", "-q", "origin", "HEAD:main")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		reached[r.Method+" "+r.URL.Path]++
		mu.Unlock()
		switch {
		case strings.HasPrefix(r.URL.Path, "/team/"):
			git.ServeHTTP(w, r)
		case r.Header.Get("Upgrade") != "":
			c, b, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, b)
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-End")
			fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, n)
			w.Header().Set("X-End", "yes")
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	rule := Rule{
		Host: "example.com", Ports: []uint16{port}, Private: true, Protocol: ProtocolHTTPS,
		Rules: []HTTPRule{
			{Methods: []string{"GET", "POST", "PUT", "HEAD"}, Path: "/ok/**"},
			{Methods: []string{"GET"}, Path: "/team/**"},
			{Methods: []string{"POST"}, Path: "/team/*/git-upload-pack"},
		},
		Deny: []HTTPRule{{Path: "/ok/secret/**"}},
	}
	records := audittest.NewLog(t)
	s := box(t, records, rules(rule), &Options{Resolver: hosts{"example.com.": "127.0.0.1"}, Roots: roots})
	at := fmt.Sprintf("U=https://example.com:%d", port)
	for _, c := range []struct{ needs, text, want string }{
		{"curl", `
			for v in --http1.1 --http2; do
				curl -sS $v -w ' %{http_code} %{http_version}\n' $U/ok/a
				curl -sS $v -o /dev/null -w '%{http_code}\n' -X DELETE $U/ok/a
				curl -sS $v -o /dev/null -w '%{http_code}\n' --path-as-is $U/ok/../private
				curl -sS $v -o /dev/null -w '%{http_code}\n' --path-as-is $U/ok/%53ecret/x
				curl -sS $v -I -o /dev/null -w '%{http_code}\n' $U/ok/head
				head -c 3000000 /dev/zero | curl -sS $v -T - $U/ok/up; echo
				head -c 3000000 /dev/zero >f; curl -sS $v -T f $U/ok/up; echo
			done
			curl -sS $U/elsewhere | grep -o '"reason":"[a-z-]*"'`,
			uploads("1.1") + uploads("2") + "\"reason\":\"http-path\"\n"},
		{"python3", `
			cat >t.py <<-X
			import os, urllib.request as u, urllib.error as e
			print(u.urlopen(os.environ["U"] + "/ok/py", data=b"x" * 70000).read().decode())
			try: u.urlopen(os.environ["U"] + "/ok/secret/py")
			except e.HTTPError as x: print(x.code)
			X
			/usr/bin/python3 t.py`, "POST /ok/py 70000\n403\n"},
		{"node", `
			cat >t.mjs <<-X
			import https from "node:https"; import http2 from "node:http2"
			const U = process.env.U
			const r = await fetch(U + "/ok/fetch", {method: "POST", body: "hello"}); console.log(await r.text())
			console.log((await fetch(U + "/private")).status)
			await new Promise(done => https.request(U + "/ok/ws", {headers: {connection: "Upgrade", upgrade: "websocket"}}).on("upgrade", (res, s) => {
				s.write("ping"); s.on("data", d => { console.log(res.statusCode, String(d)); s.destroy(); done() })
			}).end())
			await new Promise(done => https.request(U + "/private", {headers: {connection: "Upgrade", upgrade: "websocket"}}).on("response", res => {
				console.log(res.statusCode); res.destroy(); done()
			}).end())
			const c = http2.connect(U), q = c.request({":method": "POST", ":path": "/ok/h2"})
			q.write("one"); q.end("two"); let b = ""
			q.on("data", d => b += d); q.on("trailers", t => console.log(b, t["x-end"])); q.on("close", () => c.close())
			X
			node t.mjs`, "POST /ok/fetch 5\n403\n101 ping\n403\nPOST /ok/h2 6 yes\n"},
		{"git", `
			export GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
			git clone -q $U/team/repo.git repo; cd repo; git log --format=%s
			git commit -q --allow-empty -m second; { git push -q origin HEAD:main 2>&1 || true; } | grep -o 'error: 403'`, "first\nerror: 403\n"},
	} {
		for way, prepare := range map[string]string{"direct": "unset HTTPS_PROXY https_proxy ALL_PROXY all_proxy", "proxy": "env | grep -qi https_proxy="} {
			if way == "proxy" && !full() {
				continue
			}
			t.Run(c.needs+"/"+way, func(t *testing.T) {
				needPrograms(t, c.needs)
				dir := c.needs + "-" + way
				assert.Equal(t, c.want, script(t, s, "mkdir "+dir+"; cd "+dir+"\n"+prepare+"\n"+c.text, at))
			})
		}
	}
	require.NoError(t, s.Close())
	for line := range reached {
		assert.Regexp(t, `^((GET|POST|PUT|HEAD) /ok/(a|head|up|py|fetch|ws|h2)|GET /team/.*|POST /team/repo.git/git-upload-pack)$`, line, "nothing else has gone out")
	}
	ended := 0
	for _, r := range records.Records() {
		if r.Intent != nil && r.Intent.Action == "connect" {
			assert.Equal(t, audit.DoorCompute, r.Intent.Door)
			assert.Contains(t, r.Intent.Decision.PolicyIDs()[0], "network.allow:example.com#rules[")
			ended++
		}
	}
	total := 0
	for _, n := range reached {
		total += n
	}
	assert.Equal(t, total, ended, "each request that went out is on record")
}

func uploads(version string) string {
	return "GET /ok/a 0 200 " + version + "\n403\n403\n403\n200\nPUT /ok/up 3000000\nPUT /ok/up 3000000\n"
}
