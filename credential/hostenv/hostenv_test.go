//go:build unix

package hostenv

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestStore(t *testing.T) {
	for _, kind := range []string{"files", "variables"} {
		t.Run(kind, func(t *testing.T) {
			credentialtest.TestStore(t, func(t *testing.T, secrets map[string]string) credential.Store {
				dir := t.TempDir()
				sources := make(map[string]Source)
				for name, value := range secrets {
					plain := strings.ReplaceAll(name, "/", "_")
					if kind == "files" {
						sources[name] = Source{File: filepath.Join(dir, plain)}
						write(t, sources[name].File, value+"\n")
					} else {
						sources[name] = Source{Env: "TWINWARD_TEST_" + plain}
						t.Setenv(sources[name].Env, value)
					}
				}
				s, err := New(sources, &Options{Poll: 10 * time.Millisecond})
				require.NoError(t, err)
				return s
			})
		})
	}
}

func value(t *testing.T, s *Store, ref credential.Ref) string {
	t.Helper()
	_, secret, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	var text string
	require.NoError(t, secret.Use(func(b []byte) error { text = string(b); return nil }))
	return text
}

func states(t *testing.T, s *Store) string {
	t.Helper()
	list, err := s.List(t.Context(), "")
	require.NoError(t, err)
	var all []string
	for _, v := range list {
		all = append(all, v.Ref.String()+" "+string(v.State))
	}
	return strings.Join(all, ", ")
}

func TestFileThatChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	s, err := New(map[string]Source{"slack": {File: path}}, nil)
	require.NoError(t, err)
	_, _, err = s.Get(t.Context(), credential.Ref{Name: "slack"})
	require.ErrorIs(t, err, credential.ErrUnknown)
	write(t, path, "the first value\r\n")
	require.Equal(t, "the first value", value(t, s, credential.Ref{Name: "slack"}))
	write(t, path, "the first value") // the same, written anew
	require.Equal(t, "slack@1 current", states(t, s))
	write(t, path, "the second value")
	require.Equal(t, "slack@1 previous, slack@2 current", states(t, s))
	require.Equal(t, "the first value", value(t, s, credential.Ref{Name: "slack", Version: 1}))
	require.Equal(t, "the second value", value(t, s, credential.Ref{Name: "slack"}))
	write(t, path, "the third value")
	require.Equal(t, "slack@2 previous, slack@3 current", states(t, s))
	require.NoError(t, os.Remove(path))
	require.Equal(t, "slack@2 revoked, slack@3 previous", states(t, s))
	_, _, err = s.Get(t.Context(), credential.Ref{Name: "slack"})
	require.ErrorIs(t, err, credential.ErrNoCurrent)
	write(t, path, "the third value")
	require.Equal(t, "slack@2 previous, slack@3 current", states(t, s))
}

func TestWatchSeesTheFileChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "the first value")
	s, err := New(map[string]Source{"slack": {File: path}}, &Options{Poll: time.Millisecond})
	require.NoError(t, err)
	var seen []credential.Ref
	failed := 0
	for ref, err := range s.Watch(t.Context()) {
		if err != nil {
			require.ErrorIs(t, err, ErrSource)
			if failed++; failed == 1 {
				write(t, path, "the third value")
			}
			continue
		}
		if seen = append(seen, ref); len(seen) == 1 {
			write(t, path, "the second value")
		}
		// The write above is seen as a new current version, and the old one as
		// previous, in any order; an empty file on the way is an error.
		if failed == 0 && len(seen) == 3 {
			write(t, path, "")
		}
		if failed > 0 && ref == (credential.Ref{}) {
			break
		}
	}
	require.Equal(t, "the third value", value(t, s, credential.Ref{Name: "slack"}))
}

func TestFilesThatAreNoSecrets(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(file("target", "exposed by its target", 0o644), link))
	for name, c := range map[string]struct {
		source Source
		want   error
	}{
		"group can read":       {Source{File: file("group", "a secret of mine", 0o640)}, ErrExposed},
		"all can read":         {Source{File: file("all", "a secret of mine", 0o604)}, ErrExposed},
		"all can write":        {Source{File: file("write", "a secret of mine", 0o602)}, ErrExposed},
		"all can write, still": {Source{File: file("shared", "a secret of mine", 0o646), AllowOthersToRead: true}, ErrExposed},
		"a link to such a one": {Source{File: link}, ErrExposed},
		"a folder":             {Source{File: dir}, ErrSource},
		"a FIFO":               {Source{File: fifo}, ErrSource},
		"a device":             {Source{File: "/dev/zero"}, ErrSource},
		"empty":                {Source{File: file("empty", "\n", 0o600)}, ErrSource},
		"too long":             {Source{File: file("long", strings.Repeat("x", credential.MaxLength+1), 0o600)}, ErrSource},
		"an empty variable":    {Source{Env: "TWINWARD_TEST_EMPTY"}, ErrSource},
		"a missing variable":   {Source{Env: "TWINWARD_TEST_MISSING"}, credential.ErrUnknown},
		"a missing file":       {Source{File: filepath.Join(dir, "missing")}, credential.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TWINWARD_TEST_EMPTY", "")
			s, err := New(map[string]Source{"it": c.source}, nil)
			require.NoError(t, err)
			_, _, err = s.Get(t.Context(), credential.Ref{Name: "it"})
			require.ErrorIs(t, err, c.want)
			require.NotContains(t, err.Error(), "a secret of mine")
		})
	}
	for _, accepted := range []Source{
		{File: file("mine", "a secret of mine", 0o400)},
		{File: file("container", "a secret of mine", 0o444), AllowOthersToRead: true},
		{File: file("longest", strings.Repeat("x", credential.MaxLength)+"\r\n", 0o600)},
	} {
		s, err := New(map[string]Source{"it": accepted}, nil)
		require.NoError(t, err)
		value(t, s, credential.Ref{Name: "it"})
	}
}

// A file that somebody else owns could be changed by them, whatever its mode.
func TestFileOfSomebodyElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "theirs")
	write(t, path, "a secret of theirs")
	want := ErrExposed
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(path, 65534, 65534))
	} else {
		path, want = "/etc/shadow", os.ErrPermission // root's, which we would trust if we could read it
	}
	s, err := New(map[string]Source{"it": {File: path}}, nil)
	require.NoError(t, err)
	_, _, err = s.Get(t.Context(), credential.Ref{Name: "it"})
	require.ErrorIs(t, err, want)
}

func TestSourcesThatSayNothing(t *testing.T) {
	for name, source := range map[string]Source{
		"empty": {}, "both": {Env: "A", File: "/a"}, "relative": {File: "a"}, "no-variable": {Env: "A=B"}, "bad name": {Env: "A"},
	} {
		_, err := New(map[string]Source{name: source}, nil)
		require.Error(t, err, name)
	}
}
