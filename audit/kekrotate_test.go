package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func TestRotateKEK(t *testing.T) {
	k := newKeeper(t, audit.Options{SegmentSize: 3000})
	for range 3 {
		k.begin(act("a", "u", audit.ClassWrite))
		k.begin(act("b", "v", audit.ClassWrite))
	}
	old, next := k.kek, audit.NewKEK()
	_, err := k.RotateKEK(ctx, next, audit.Change{})
	assert.ErrorIs(t, err, audit.ErrNoAuthority)
	_, err = k.RotateKEK(ctx, nil, officer)
	assert.ErrorIs(t, err, audit.ErrKey, "there is no file to put a new one into")
	_, err = (*audit.Log)(nil).RotateKEK(ctx, next, officer)
	assert.ErrorIs(t, err, audit.ErrNoLog)

	n, err := k.RotateKEK(ctx, next, officer)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	assert.Equal(t, 6, len(k.check().Unopened), "the KEK of before opens nothing")
	k.kek = next
	assert.Equal(t, audit.ValueReport{Kept: 6, Readable: 6}, k.check())
	assert.NotContains(t, string(k.vs.FS()["keys.v1.jsonl"].Data), old.ID())
	k.begin(act("a", "u", audit.ClassWrite))
	assert.Equal(t, audit.ValueReport{Kept: 7, Readable: 7}, k.check())
	var said []string
	for r, err := range k.Query(ctx, audit.Filter{Kind: audit.KindKEK}) {
		require.NoError(t, err)
		assert.Equal(t, &officer, r.Event.Change)
		assert.Equal(t, next.ID(), r.Event.Detail["new"])
		said = append(said, strings.TrimSpace(r.Event.Detail["state"]+" "+r.Event.Detail["keys"]))
	}
	assert.Equal(t, []string{"begun", "done 2"}, said)

	// Once more, and everything works as ever.
	require.NoError(t, k.Close())
	k.open()
	n, err = k.RotateKEK(ctx, old, officer)
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	k.kek = old
	e, err := k.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 4, Keys: 2}, e)
	assert.Equal(t, audit.ValueReport{Kept: 7, Readable: 3, Erased: 4}, k.check())

	// Keys under a KEK that nobody has: nothing is changed.
	require.NoError(t, k.Close())
	k.kek = next
	k.open()
	size := k.Size()
	_, err = k.RotateKEK(ctx, audit.NewKEK(), officer)
	assert.ErrorIs(t, err, audit.ErrKey)
	assert.Equal(t, size, k.Size())
	require.NoError(t, k.Close())
	k.kek = audit.KEKs(next, old)
	k.open()
	n, err = k.RotateKEK(ctx, next, officer)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	k.kek = next
	assert.Equal(t, audit.ValueReport{Kept: 7, Readable: 3, Erased: 4}, k.check())
}

func TestRotateKEKFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, nil)
	for range 3 {
		must(log.Begin(ctx, act("a", "u", audit.ClassWrite)))
	}
	old := must(audit.LoadKEK(dir + ".kek"))
	n, err := log.RotateKEK(ctx, nil, officer)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	n, err = log.RotateKEK(ctx, nil, officer)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	now := must(audit.LoadKEK(dir + ".kek"))
	assert.NotEqual(t, old.ID(), now.ID())
	text := string(must(os.ReadFile(dir + ".kek")))
	assert.Equal(t, 1, strings.Count(text, "twinward-kek-v1+"))
	must(log.Begin(ctx, act("a", "u", audit.ClassWrite)))
	require.NoError(t, log.Close())
	v := must(audit.OpenValues(ctx, os.DirFS(dir+".values"), now))
	rep := must(v.Check(ctx, audit.Scan(ctx, os.DirFS(dir), audit.Filter{})))
	assert.Equal(t, audit.ValueReport{Kept: 4, Readable: 4}, rep)
}

// An error at any step: what is left can be read with both KEKs, and doing it again
// ends it.
func TestRotateKEKInterrupted(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		for n := range 3 {
			t.Run(fmt.Sprint(op, n), func(t *testing.T) {
				k := newKeeper(t, audit.Options{})
				for i := range 4 {
					k.begin(act(fmt.Sprint("a", i), "u", audit.ClassWrite))
				}
				next, count := audit.NewKEK(), 0
				k.vs.FailOn(func(o string) error {
					if o == op {
						if count++; count == n+1 {
							return errors.New("injected")
						}
					}
					return nil
				})
				_, err := k.RotateKEK(ctx, next, officer)
				if count > n {
					require.Error(t, err)
				}
				k.vs.FailOn(nil)
				k.st, k.vs, k.kek = k.st.PowerCut(0), k.vs.PowerCut(7), audit.KEKs(next, k.kek)
				assert.Equal(t, audit.ValueReport{Kept: 4, Readable: 4}, k.check())
				k.open()
				_, err = k.RotateKEK(ctx, next, officer)
				require.NoError(t, err)
				k.kek = next
				assert.Equal(t, audit.ValueReport{Kept: 4, Readable: 4}, k.check())
			})
		}
	}
}

// However often it fails, also with the key that it was begun with: the file holds the
// key of before as long as data keys are under it.
func TestRotateKEKFileKeepsTheKeyOfBefore(t *testing.T) {
	t.Parallel()
	file, key := filepath.Join(t.TempDir(), "kek"), must(audit.NewKey("audit.test/kek"))
	st, vs, next := new(memory), new(memory), audit.NewKEK()
	open := func() *audit.Log {
		return must(audit.New(st, &audit.Options{Key: key, Values: vs, KEKFile: file}))
	}
	check := func(kek audit.KEK) audit.ValueReport {
		return must(must(audit.OpenValues(ctx, vs.FS(), kek)).Check(ctx, audit.Scan(ctx, st.FS(), audit.Filter{})))
	}
	log := open()
	must(log.Begin(ctx, act("a", "u", audit.ClassWrite)))
	for range 3 {
		vs.FailOn(func(op string) error {
			if op == "write" {
				return errors.New("injected")
			}
			return nil
		})
		for range 2 {
			_, err := log.RotateKEK(ctx, next, officer)
			require.Error(t, err)
			require.Equal(t, audit.ValueReport{Kept: 1, Readable: 1}, check(must(audit.LoadKEK(file))))
		}
		vs.FailOn(nil)
		_ = log.Close()
		log = open()
	}
	vs.FailOn(func(op string) error { return errors.New("injected") })
	for n := 3; n <= 17; n++ { // the file has room for 16
		_, err := log.RotateKEK(ctx, audit.NewKEK(), officer)
		require.Error(t, err)
		_, err = audit.LoadKEK(file)
		require.NoError(t, err, n)
	}
	vs.FailOn(nil)
	_ = log.Close()
	log = open()
	n, err := log.RotateKEK(ctx, nil, officer)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	require.NoError(t, log.Close())
	assert.Equal(t, audit.ValueReport{Kept: 1, Readable: 1}, check(must(audit.LoadKEK(file))))
	assert.Equal(t, 1, strings.Count(string(must(os.ReadFile(file))), "twinward-kek-v1+"))
}

// Neither an erasure nor an act for somebody else waits for a KEK that does not
// answer.
func TestKEKHangs(t *testing.T) {
	t.Parallel()
	hung := &hungKEK{KEK: audit.NewKEK(), asked: make(chan struct{}, 1), answer: make(chan struct{})}
	log := must(audit.New(&memory{}, &audit.Options{Key: must(audit.NewKey("audit.test/hung")), KEK: hung, Values: &memory{}}))
	must(log.Begin(ctx, act("a", "u", audit.ClassWrite)))
	hung.hang.Store(true)
	first := make(chan error, 1)
	go func() {
		_, err := log.Begin(ctx, act("b", "v", audit.ClassWrite))
		first <- err
	}()
	<-hung.asked
	e, err := log.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 1, Keys: 1}, e)
	hung.hang.Store(false)
	must(log.Begin(ctx, act("a", "u", audit.ClassWrite)))
	close(hung.answer)
	require.NoError(t, <-first)
	require.NoError(t, log.Close())
}

type memory = audittest.Memory

// A hungKEK answers while hang is not set.
type hungKEK struct {
	audit.KEK
	hang   atomic.Bool
	asked  chan struct{}
	answer chan struct{}
}

func (k *hungKEK) Wrap(ctx context.Context, key, bound []byte) ([]byte, error) {
	if k.hang.Load() {
		k.asked <- struct{}{}
		<-k.answer
	}
	return k.KEK.Wrap(ctx, key, bound)
}
