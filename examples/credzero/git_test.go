//go:build linux && (amd64 || arm64)

package credzero

import (
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
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// git runs git on the host, without the settings of whoever runs the test.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "git %v: %s", args, out)
	return string(out)
}

// git clone and push inside a session, against git's own HTTP backend that asks
// for a token. The token is not inside.
func TestGit(t *testing.T) {
	needs(t, "git")
	h := newHouse(t, "forge")
	h.rules("")

	dir := t.TempDir()
	bare, seed := filepath.Join(dir, "team", "repo.git"), filepath.Join(dir, "seed")
	git(t, dir, "init", "-q", "--bare", "-b", "main", bare)
	git(t, bare, "config", "http.receivepack", "true")
	git(t, dir, "init", "-q", "-b", "main", seed)
	big := make([]byte, 3<<20) // a pack that streams
	for i, x := 0, uint32(1); i < len(big); i++ {
		x = x*1664525 + 1013904223
		big[i] = byte(x >> 24)
	}
	require.NoError(t, os.WriteFile(filepath.Join(seed, "big"), big, 0o644))
	git(t, seed, "add", ".")
	git(t, seed, "commit", "-q", "-m", "first")
	git(t, seed, "push", "-q", bare, "main")

	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(git(t, dir, "--exec-path")), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=bot", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	var strangers []string
	forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "x-access-token" || password != h.secrets["forge"] {
			strangers = append(strangers, r.URL.Path)
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/leak") {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write([]byte("bad credentials: " + h.secrets["forge"]))
			return
		}
		backend.ServeHTTP(w, r)
	}))
	defer forge.Close()
	h.api("git.example.com", forge.URL, "forge", credential.Basic("x-access-token"))
	box := h.box(nil)

	out, err := h.sh(box, `
		git clone -q https://git.example.com/team/repo.git
		cd repo
		cksum <big
		echo hello >new
		git add new
		git -c user.name=worker -c user.email=worker@example.com commit -q -m second
		git push -q origin main
		git fetch -q
		git log --format=%s origin/main
	`)
	require.NoError(t, err, out)
	assert.Contains(t, out, "second\nfirst\n")
	assert.Equal(t, "second\nfirst\n", git(t, bare, "log", "--format=%s", "main"), "the push has arrived")
	assert.Empty(t, strangers)

	out, err = h.sh(box, "cd repo; cat .git/config; git remote -v; git ls-remote https://git.example.com/forbidden.git 2>&1")
	require.Error(t, err)
	assert.Contains(t, out, "403")

	var calls, denials int
	for _, r := range h.log.Records() {
		switch {
		case r.Outcome != nil && r.Outcome.CredentialVersion == 1:
			calls++
			assert.Equal(t, audit.StatusOK, r.Outcome.Status)
		case r.Event != nil && r.Event.Kind == audit.KindDenial:
			denials++
			assert.Equal(t, "no-force", r.Event.Decision.Policies[0].ID)
		}
	}
	assert.GreaterOrEqual(t, calls, 5, "each request is on record")
	assert.Equal(t, 1, denials)
	for _, f := range []string{".git/config", ".git/FETCH_HEAD"} {
		b, err := os.ReadFile(filepath.Join(box.Workspace(), "repo", f))
		require.NoError(t, err)
		credentialtest.AssertNoLeak(t, h.vault.Scrubber(), b)
	}
}
