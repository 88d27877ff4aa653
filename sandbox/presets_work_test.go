//go:build linux && (amd64 || arm64)

package sandbox

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// presetBox starts a session with a preset, all of whose hosts answer with h.
func presetBox(t *testing.T, name string, h http.Handler) *Session {
	t.Helper()
	p, err := Preset(name)
	require.NoError(t, err)
	for i := range p.Network.Allow {
		p.Network.Allow[i].Served = true
	}
	s := box(t, audittest.NewLog(t), p, nil)
	for _, r := range p.Network.Allow {
		require.NoError(t, s.Handle(r.Host, h))
	}
	return s
}

// request makes the requests of its lines, each after the status that it should
// have, and prints what it has.
const request = `
import os, urllib.error, urllib.request as u
for line in os.environ["LINES_"].splitlines():
    _, method, url = line.split()
    try: status = u.urlopen(u.Request(url, method=method, data=b"x" if method in ("POST", "PUT") else None)).status
    except urllib.error.HTTPError as e: status = e.code
    print(status, method, url)
`

// What a preset opens is enough to read, and what changes anything is refused
// before it reaches the host.
func TestPresetsReadAndDoNotWrite(t *testing.T) {
	needPrograms(t, "python3", "bash")
	for name, lines := range map[string]string{
		"npm": `
			200 GET https://registry.npmjs.org/lodash
			200 GET https://registry.npmjs.org/@types%2fnode
			200 GET https://registry.yarnpkg.com/lodash/-/lodash-4.17.21.tgz
			403 PUT https://registry.npmjs.org/lodash
			403 POST https://registry.npmjs.org/-/npm/v1/security/audits
			403 DELETE https://registry.npmjs.org/lodash/-/lodash-4.17.21.tgz/-rev/1`,
		"pypi": `
			200 GET https://pypi.org/simple/requests/
			200 GET https://pypi.org/pypi/requests/json
			200 GET https://files.pythonhosted.org/packages/aa/bb/requests.whl
			403 GET https://pypi.org/manage/account/
			403 POST https://pypi.org/simple/requests/
			403 PUT https://files.pythonhosted.org/packages/aa/bb/requests.whl`,
		"go": `
			200 GET https://proxy.golang.org/golang.org/x/sys/@v/list
			200 GET https://sum.golang.org/lookup/golang.org/x/sys@v0.1.0
			403 POST https://proxy.golang.org/golang.org/x/sys/@v/list`,
		"docker-hub": `
			200 GET https://auth.docker.io/token?service=registry.docker.io
			200 GET https://registry-1.docker.io/v2/library/alpine/manifests/latest
			200 HEAD https://registry-1.docker.io/v2/library/alpine/blobs/sha256:00
			200 GET https://production.cloudflare.docker.com/registry-v2/docker/x
			403 POST https://auth.docker.io/token
			403 POST https://registry-1.docker.io/v2/library/alpine/blobs/uploads/
			403 PUT https://registry-1.docker.io/v2/library/alpine/manifests/latest`,
		"git": `
			200 GET https://github.com/team/repo.git/info/refs?service=git-upload-pack
			200 POST https://gitlab.com/group/team/repo/git-upload-pack
			403 POST https://github.com/team/repo.git/git-receive-pack
			403 GET https://github.com/team/repo/settings
			403 POST https://github.com/team/repo.git/git-receive-pack/../git-receive-pack`,
	} {
		t.Run(name, func(t *testing.T) {
			s := presetBox(t, name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
			want := strings.Join(strings.FieldsFunc(lines, func(r rune) bool { return r == '\n' || r == '\t' }), "\n") + "\n"
			assert.Equal(t, want, script(t, s, "python3 -c '"+request+"'", "LINES_="+want))
		})
	}
}

func TestPresetGit(t *testing.T) {
	needPrograms(t, "git", "bash")
	dir := t.TempDir()
	s := presetBox(t, "git", forge(t, dir))
	bare, seed := filepath.Join(dir, "team/repo.git"), filepath.Join(dir, "seed")
	hostGit(t, dir, "init", "-q", "-b", "main", seed)
	hostGit(t, seed, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "first")
	hostGit(t, seed, "push", "-q", bare, "main")
	assert.Equal(t, "first\nrefused\n", script(t, s, `
		git clone -q https://github.com/team/repo.git; cd repo; git log --format=%s
		git -c user.name=b -c user.email=b@example.com commit -q --allow-empty -m second
		git push -q origin HEAD:main 2>/dev/null || echo refused
	`))
	assert.Equal(t, "first\n", hostGit(t, bare, "log", "--format=%s", "main"))
}
