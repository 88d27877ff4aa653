//go:build linux && (amd64 || arm64)

package credzero

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// tarball makes a package as npm packs it.
func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, text := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "package/" + name, Mode: 0o644, Size: int64(len(text))}))
		_, err := io.WriteString(w, text)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return out.Bytes()
}

// npm install of a private package inside a session, from a registry that asks
// for a token and shows it to whoever asks. The token is not inside.
func TestNpm(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") == "" {
		t.Skip("npm takes its time: with TWINWARD_FULL=1 only")
	}
	needs(t, "node", "npm")
	h := newHouse(t, "registry")
	h.rules("")
	pack := tarball(t, map[string]string{
		"package.json": `{"name":"@team/secret-sauce","version":"1.2.3","main":"index.js"}`,
		"index.js":     `module.exports = "it works"`,
	})
	sum := sha512.Sum512(pack)
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("Authorization")
		if token != "Bearer "+h.secrets["registry"] {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Npm-Notice", "you are "+token)
		switch r.URL.EscapedPath() {
		case "/@team%2fsecret-sauce", "/@team%2Fsecret-sauce":
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{
				"name": "@team/secret-sauce", "dist-tags": map[string]string{"latest": "1.2.3"}, "readme": token,
				"versions": map[string]any{"1.2.3": map[string]any{
					"name": "@team/secret-sauce", "version": "1.2.3", "description": token,
					"dist": map[string]string{
						"tarball":   "https://npm.example.com/@team/secret-sauce/-/secret-sauce-1.2.3.tgz",
						"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
					},
				}},
			})
		case "/@team/secret-sauce/-/secret-sauce-1.2.3.tgz":
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(pack)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":"no such package for `+token+`"}`)
		}
	}))
	defer registry.Close()
	h.api("npm.example.com", registry.URL, "registry", credential.Bearer())
	box := h.box(nil)

	out, err := h.sh(box, `
		echo '{"name":"app","version":"1.0.0"}' >package.json
		npm config set registry https://npm.example.com/ --location=user
		npm install --no-audit --no-fund --loglevel=http @team/secret-sauce
		node -e 'console.log(require("@team/secret-sauce"))'
		cat .npmrc package-lock.json node_modules/@team/secret-sauce/package.json
	`)
	require.NoError(t, err, out)
	assert.Contains(t, out, "it works\n")
	assert.Contains(t, out, `"integrity": "sha512-`)

	out, err = h.sh(box, "npm view @team/nothing 2>&1; cat .npm/_logs/*")
	require.Error(t, err)
	assert.Contains(t, out, "404")
	out, err = h.sh(box, "cat .npm/_logs/* && grep -r . .npm/_cacache | head -c 1000000")
	require.NoError(t, err)
	assert.Contains(t, out, "[redacted:registry]")

	leaks := 0
	for _, r := range h.log.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindLeak {
			leaks++
			assert.Equal(t, "registry", r.Event.Detail["credential"])
		}
	}
	assert.NotZero(t, leaks)
}
