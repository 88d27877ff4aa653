//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// secretDir makes a folder of the host that no policy names.
func secretDir(t *testing.T) string {
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	require.NoError(t, os.WriteFile(dir+"/file", []byte("secret of the host"), 0o644))
	return dir
}

// TestPlantedLinksAreNotFollowed has one session leave a link in a place that it
// may write, at a path that the policy of the next one names.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	secret, shared := secretDir(t), t.TempDir()
	planter := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{ReadWrite: []string{shared}}}, nil)
	require.NoError(t, sh(planter, "cd "+shared+" && ln -s "+secret+" data && mkdir real && ln -s real inner").Run())
	require.NoError(t, planter.Close())
	for name, c := range map[string]struct {
		files Filesystem
		opts  *Options
	}{
		"read-only":           {Filesystem{ReadOnly: append(SystemPaths(), shared+"/data"), ReadWrite: []string{shared}}, nil},
		"a file behind it":    {Filesystem{ReadOnly: append(SystemPaths(), shared+"/data/file"), ReadWrite: []string{shared}}, nil},
		"read-write":          {Filesystem{ReadWrite: []string{shared, shared + "/data"}}, nil},
		"within the place":    {Filesystem{ReadOnly: append(SystemPaths(), shared+"/inner"), ReadWrite: []string{shared}}, nil},
		"in the workspace":    {Filesystem{ReadOnly: append(SystemPaths(), shared+"/data")}, &Options{Workspace: shared}},
		"it is the workspace": {Filesystem{ReadWrite: []string{shared}}, &Options{Workspace: shared + "/data"}},
	} {
		s, err := Start(context.Background(), &Policy{Filesystem: c.files}, agent, audittest.NewLog(t), c.opts)
		if err == nil {
			s.Close()
		}
		var le *LayerError
		if assert.ErrorAs(t, err, &le, name) {
			assert.ErrorContains(t, le, "symbolic link", name)
		}
	}
}

func init() {
	// A program that exchanges a folder of the workspace with a link to the host's
	// secret, and moves the folder about, as fast as it can.
	roles["shuffle"] = func() {
		dir, secret := os.Args[1], os.Args[2]
		_ = os.Symlink(secret, dir+"/link")
		_ = os.Mkdir(dir+"/away", 0o755)
		fmt.Println("up")
		for n := 0; ; n++ {
			_ = unix.Renameat2(unix.AT_FDCWD, dir+"/link", unix.AT_FDCWD, dir+"/repo", unix.RENAME_EXCHANGE)
			_ = unix.Renameat2(unix.AT_FDCWD, dir+"/link", unix.AT_FDCWD, dir+"/repo", unix.RENAME_EXCHANGE)
			_ = os.Rename(dir+"/repo", dir+"/away/repo")
			_ = os.Rename(dir+"/away/repo", dir+"/repo")
			_ = os.Link(dir+"/repo/conf/file", dir+"/away/hard")
			_ = os.Remove(dir + "/away/hard")
			if n%50 == 49 {
				time.Sleep(15 * time.Millisecond) // all is in its place: some launches are to succeed
			}
			if _, err := os.Lstat(dir + "/stop"); err == nil {
				fmt.Println(n)
				return
			}
		}
	}
}

// TestLaunchesRaceSwaps starts sessions on a workspace in which a program of
// another session swaps folders and links. A launch may fail; one that does not
// shows what lies beneath the workspace, and never what a link leads to.
func TestLaunchesRaceSwaps(t *testing.T) {
	secret, shared := secretDir(t), t.TempDir()
	require.NoError(t, os.Mkdir(secret+"/conf", 0o755))
	require.NoError(t, os.WriteFile(secret+"/conf/file", []byte("secret of the host"), 0o644))
	require.NoError(t, os.MkdirAll(shared+"/repo/conf", 0o755))
	require.NoError(t, os.WriteFile(shared+"/repo/conf/file", []byte("plain"), 0o644))
	hostile := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{ReadWrite: []string{shared}}}, &Options{Self: true})
	swap := hostile.Command(context.Background(), Self, shared, secret)
	swap.Env = roleEnv("shuffle")
	pipe, err := swap.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, swap.Start())
	lines := bufio.NewReader(pipe)
	_, err = lines.ReadString('\n')
	require.NoError(t, err)

	n := rounds(10, 60, 2_000)
	var mu sync.Mutex
	started, refused := 0, 0
	for _, launcher := range launchers {
		work := make(chan int)
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for i := range work {
					p := &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), shared+"/repo/conf"), ReadWrite: []string{shared}}}
					opts := launchedBy(launcher)
					if i%3 == 0 {
						p = &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), shared+"/repo/conf/file"), ReadWrite: []string{shared}}}
					}
					s, err := Start(context.Background(), p, agent, discard{}, opts)
					mu.Lock()
					if err != nil {
						refused++
						mu.Unlock()
						continue
					}
					started++
					mu.Unlock()
					out, _ := sh(s, "for i in 1 2 3 4 5; do cat "+shared+"/repo/conf/file "+secret+"/conf/file; done").CombinedOutput()
					assert.NotContains(t, string(out), "secret of the host")
					assert.NoError(t, s.Close())
				}
			})
		}
		for i := range n {
			work <- i
		}
		close(work)
		workers.Wait()
	}
	require.NoError(t, os.WriteFile(shared+"/stop", nil, 0o644))
	swaps, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, swap.Wait())
	t.Logf("%d launches showed what they should, %d were refused, during 4 × %s moves", started, refused, strings.TrimSpace(swaps))
	b, err := os.ReadFile(secret + "/conf/file")
	require.NoError(t, err)
	assert.Equal(t, "secret of the host", string(b))
}

// TestMountsOfTheHostStayOutside mounts on the host, beneath a path that a
// living session shows: it does not appear inside.
func TestMountsOfTheHostStayOutside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount on the host")
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(dir+"/point", 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	require.NoError(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	s := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), dir)}}, nil)
	require.NoError(t, unix.Mount("tmpfs", dir+"/point", "tmpfs", 0, ""))
	defer func() { assert.NoError(t, unix.Unmount(dir+"/point", unix.MNT_DETACH)) }()
	require.NoError(t, os.WriteFile(dir+"/point/late", nil, 0o644))
	out, err := sh(s, "ls "+dir+"/point; grep -c "+dir+"/point /proc/self/mountinfo").CombinedOutput()
	assert.Error(t, err, "grep finds nothing")
	assert.Equal(t, "0\n", string(out))
}
