//go:build unix

package filevault

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

const childEnv = "TWINWARD_FILEVAULT_TEST_CHILD"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	switch what, dir, _ := strings.Cut(os.Getenv(childEnv), ":"); what {
	case "save":
		fmt.Fprintln(os.Stderr, saveForEver(dir))
		os.Exit(1)
	case "full":
		os.Exit(fillDisk(dir))
	case "limit":
		os.Exit(limitFile(dir))
	}
	os.Exit(m.Run())
}

func child(what, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what+":"+dir)
	return cmd
}

// openAll opens the vault in dir, with its log as the witness.
func openAll(ctx context.Context, dir string) (*Store, func() error, error) {
	log, err := audit.Open(filepath.Join(dir, "log"), nil)
	if err != nil {
		return nil, nil, err
	}
	kek, err := LoadIdentity(filepath.Join(dir, "key"))
	if err == nil {
		var s *Store
		if s, err = Open(ctx, filepath.Join(dir, "vault"), kek, &Options{Witness: LogWitness(log)}); err == nil {
			return s, log.Close, nil
		}
	}
	_ = log.Close()
	return nil, nil, err
}

func valueOf(name string, version uint64) credential.Secret {
	return credential.NewSecret(fmt.Appendf(nil, "the-value-of-%s-%d", name, version))
}

// saveForEver rotates two secrets side by side and prints what was acknowledged.
func saveForEver(dir string) error {
	ctx := context.Background()
	s, _, err := openAll(ctx, dir)
	if err != nil {
		return err
	}
	errs := make(chan error)
	for _, name := range []string{"one", "two"} {
		go func() {
			for {
				list, err := s.List(ctx, name)
				if err != nil {
					errs <- err
					return
				}
				var newest uint64
				for _, v := range list {
					newest = v.Ref.Version
					if v.State == credential.StatePending { // of who was killed before
						if err := s.SetState(ctx, v.Ref, v.State, credential.StateDestroyed); err != nil {
							errs <- err
							return
						}
					}
				}
				ref, err := s.Put(ctx, name, valueOf(name, newest+1), newest, "")
				if err == nil {
					fmt.Printf("put %s %d\n", name, ref.Version) // one unbuffered write
					if err = s.SetState(ctx, ref, credential.StatePending, credential.StateCurrent); err == nil {
						fmt.Printf("promoted %s %d\n", name, ref.Version)
					}
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// The process dies while it saves: nothing that was acknowledged is lost, and
// the file is whole and taken for the newest. A thousand times with
// TWINWARD_SOAK=1, a hundred with TWINWARD_FULL=1.
func TestKill(t *testing.T) {
	rounds := 8
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		rounds = 1000
	case os.Getenv("TWINWARD_FULL") == "1":
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx, dir := t.Context(), t.TempDir()
	kek, err := CreateIdentity(filepath.Join(dir, "key"))
	require.NoError(t, err)
	log, err := audit.Open(filepath.Join(dir, "log"), nil)
	require.NoError(t, err)
	_, err = Create(ctx, filepath.Join(dir, "vault"), kek, &Options{Witness: LogWitness(log)})
	require.NoError(t, err)
	require.NoError(t, log.Close())

	var acknowledged, completed, generation uint64
	for range rounds {
		put, promoted := make(map[string]uint64), make(map[string]uint64)
		cmd := child("save", dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		var kill sync.Once
		var timer *time.Timer
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			kill.Do(func() { // once it is saving, at any moment
				timer = time.AfterFunc(time.Duration(random.Int64N(int64(30*time.Millisecond))), func() { _ = cmd.Process.Kill() })
			})
			var what, name string
			var version uint64
			if _, err := fmt.Sscan(lines.Text(), &what, &name, &version); err != nil {
				continue // a line that was cut off
			}
			acknowledged++
			if what == "put" {
				put[name] = version
			} else {
				promoted[name] = version
			}
		}
		require.NotNil(t, timer, "the child said nothing")
		_ = cmd.Wait()

		_, err = os.Stat(filepath.Join(dir, "vault"+newSuffix))
		cut := err == nil
		s, closeLog, err := openAll(ctx, dir)
		require.NoError(t, err)
		_, err = os.Stat(filepath.Join(dir, "vault"+newSuffix))
		if cut && err != nil {
			completed++
		}
		require.Greater(t, s.last.header.Generation, generation)
		generation = s.last.header.Generation
		list, err := s.List(ctx, "")
		require.NoError(t, err)
		newest, now := make(map[string]uint64), make(map[string]uint64)
		for _, v := range list {
			newest[v.Ref.Name] = v.Ref.Version
			if v.State == credential.StateCurrent {
				now[v.Ref.Name] = v.Ref.Version
			}
			if v.State == credential.StateDestroyed {
				continue
			}
			_, secret, err := s.Get(ctx, v.Ref)
			require.NoError(t, err)
			require.True(t, secret.Equal(valueOf(v.Ref.Name, v.Ref.Version)), "%s", v.Ref)
		}
		for name := range put {
			assert.GreaterOrEqual(t, newest[name], put[name], "put and lost")
			assert.GreaterOrEqual(t, now[name], promoted[name], "promoted and lost")
		}
		require.NoError(t, closeLog())
	}
	t.Logf("%d kills, %d acknowledged changes, 0 lost, %d saves completed on opening, generation %d", rounds, acknowledged, completed, generation)
}

// Two processes change one vault at once.
func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	kek, err := CreateIdentity(filepath.Join(dir, "key"))
	require.NoError(t, err)
	path := filepath.Join(dir, "vault")
	s, err := Create(t.Context(), path, kek, nil)
	require.NoError(t, err)
	other, err := Open(t.Context(), path, kek, nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	const rounds = 20
	for i, s := range []*Store{s, other} { // each has its own lock on the file, as a process has
		wg.Go(func() {
			for n := range rounds {
				_, err := s.Put(t.Context(), fmt.Sprintf("name-%d-%d", i, n), valueOf("x", 1), 0, "")
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	for _, s := range []*Store{s, other} {
		list, err := s.List(t.Context(), "")
		require.NoError(t, err)
		assert.Len(t, list, 2*rounds)
		assert.EqualValues(t, 1+2*rounds, s.last.header.Generation)
	}
}
