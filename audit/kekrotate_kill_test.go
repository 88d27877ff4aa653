//go:build unix

package audit_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// rotateUnderLoad keeps values and changes the KEK for ever.
func rotateUnderLoad(dir string) {
	log, err := audit.Open(dir, nil)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for w := range 3 {
		go func() {
			for i := 0; ; i++ {
				c, err := log.Begin(ctx, act(fmt.Sprint("a", w, "-", i%5), "u", audit.ClassWrite))
				if err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("kept", c.Record())
			}
		}()
	}
	for {
		if _, err := log.RotateKEK(ctx, nil, officer); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("rotated 0")
	}
}

// A rotation of the KEK is killed again and again: with the file as it is, every
// value that was acknowledged can be read at any time, and after one more rotation
// none with any of the keys of before.
func TestKillRotateKEK(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, nil)
	key := log.VerifierKey()
	require.NoError(t, log.Close())
	kept, rotated := map[uint64]bool{}, 0
	var before []audit.KEK
	check := func(kek audit.KEK) audit.ValueReport {
		v := must(audit.OpenValues(ctx, os.DirFS(dir+".values"), kek))
		return must(v.Check(ctx, audit.Scan(ctx, os.DirFS(dir), audit.Filter{})))
	}
	for kill := range soak(8, 30, 300) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"=rekey:"+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			seq, err := strconv.ParseUint(rest, 10, 64)
			if !assert.NoError(t, err, lines.Text()) {
				break
			}
			switch word {
			case "kept":
				kept[seq] = true
			case "rotated":
				rotated++
			}
			if n == 5+kill*13%60 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait(), "the child was killed")
		kek := must(audit.LoadKEK(dir + ".kek"))
		before = append(before, kek)
		rep := check(kek)
		require.Empty(t, append(append(rep.Missing, rep.Damaged...), rep.Unopened...), "after kill %d", kill)
		require.GreaterOrEqual(t, rep.Kept, len(kept))
	}
	log = openLog(t, dir, nil)
	for range 2 { // the first may end what was begun
		_, err := log.RotateKEK(ctx, nil, officer)
		require.NoError(t, err)
	}
	require.NoError(t, log.Close())
	rep := check(must(audit.LoadKEK(dir + ".kek")))
	require.Equal(t, rep.Kept, rep.Readable)
	require.Positive(t, rotated)
	for _, kek := range before {
		require.Len(t, check(kek).Unopened, rep.Kept)
	}
	_, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	require.NoError(t, err)
}
