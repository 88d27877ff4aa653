//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// TestProtectedPlacesAreReadOnly lists what protects what, and has programs try
// to change, move and replace it.
func TestProtectedPlacesAreReadOnly(t *testing.T) { eachLauncher(t, testProtectedPlaces) }

func testProtectedPlaces(t *testing.T, opts *Options) {
	rw := t.TempDir()
	makeFiles(t, rw, map[string]string{"cache/.mcp.json": "good"})
	for _, c := range []struct {
		name      string
		protect   []string
		kept      []string // cannot be changed
		free      []string // can be
		protected []string // as the report says
	}{
		{"default", nil, []string{".git/hooks/commit", ".git/config", ".mcp.json"}, []string{".git/HEAD", "file", "sub/.mcp.json", "sub/.git/config"},
			[]string{".git/config", ".git/hooks", ".mcp.json"}},
		{"in any folder", []string{".git/hooks", ".mcp.json"}, []string{".git/hooks/commit", ".mcp.json", "sub/.mcp.json"}, []string{".git/config", "sub/.git/config", "file"},
			[]string{".git/hooks", ".mcp.json", "sub/.mcp.json"}},
		{"in full", []string{"/sandbox/sub/.git", "/sandbox/none"}, []string{"sub/.git/config"}, []string{".git/config", ".mcp.json", "file"}, []string{"sub/.git"}},
		{"none", []string{}, nil, []string{".git/hooks/commit", ".git/config", ".mcp.json"}, nil},
		{"elsewhere", []string{rw + "/cache/.mcp.json", rw + "/none"}, []string{rw + "/cache/.mcp.json"}, []string{".mcp.json"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			makeFiles(t, dir, map[string]string{".git/hooks/commit": "good", ".git/config": "good", ".git/HEAD": "good", ".mcp.json": "good", "file": "good",
				"sub/.mcp.json": "good", "sub/.git/config": "good"})
			s := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{Protect: c.protect, ReadWrite: []string{rw}}}, &Options{Workspace: dir, Launcher: opts.Launcher})
			assert.Equal(t, c.protected, s.Report().Protected)
			for _, p := range c.kept {
				assert.NoError(t, sh(s, "cat "+p).Run(), p)
				for _, try := range []string{"echo bad > " + p, "rm -f " + p, "mv " + p + " /sandbox/moved", "mv /sandbox/file " + p, "ln -f /sandbox/file " + p, "chmod 777 " + p} {
					assert.Error(t, sh(s, try).Run(), try)
				}
				for up := filepath.Dir(p); up != "." && up != rw; up = filepath.Dir(up) {
					assert.Error(t, sh(s, "rm -rf moved; mv "+up+" moved").Run(), "%s was moved away", up)
				}
			}
			for _, p := range c.free {
				assert.NoError(t, sh(s, "echo new > "+p).Run(), p)
			}
			require.NoError(t, s.Close())
			for _, p := range c.kept {
				full := p
				if !filepath.IsAbs(p) {
					full = filepath.Join(dir, p)
				}
				b, err := os.ReadFile(full)
				require.NoError(t, err)
				assert.Equal(t, "good", string(b), p)
			}
		})
	}
	t.Run("links", func(t *testing.T) {
		needSandbox(t)
		dir := t.TempDir()
		makeFiles(t, dir, map[string]string{"real/settings.json": ""})
		require.NoError(t, os.Symlink("real", dir+"/.claude"))
		var pe *PolicyError
		for _, list := range [][]string{{".claude"}, {"/sandbox/.claude/settings.json"}} {
			_, err := Start(context.Background(), &Policy{Filesystem: Filesystem{Protect: list}}, agent, audittest.NewLog(t), &Options{Workspace: dir})
			assert.ErrorAs(t, err, &pe, list)
		}
		box(t, audittest.NewLog(t), nil, &Options{Workspace: dir})
	})
}
