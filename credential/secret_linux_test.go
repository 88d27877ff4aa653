package credential_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

// After Destroy, no copy of the bytes is anywhere in the memory of the process:
// not of the secret, and not of what was read of it. A child looks at itself,
// and at a copy that it keeps, to know that it would find one.
func TestDestroyLeavesNoCopy(t *testing.T) {
	if os.Getenv("TWINWARD_TEST_MEMORY") != "" {
		lookAtMemory()
		return
	}
	// A signal may come while registers still hold what was copied last, and its
	// frame stays on a stack of the runtime's. That is by chance; what the code
	// leaves behind, it leaves each time.
	var seen [3]int // alive, destroyed, removed
	want := [3]int{1, 0, 0}
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDestroyLeavesNoCopy$")
		cmd.Env = append(os.Environ(), "TWINWARD_TEST_MEMORY=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		at := strings.Index(string(out), "alive")
		require.GreaterOrEqual(t, at, 0, string(out))
		_, err = fmt.Sscanf(string(out)[at:], "alive %d destroyed %d removed %d", &seen[0], &seen[1], &seen[2])
		require.NoError(t, err, string(out))
		if seen == want {
			return
		}
	}
	assert.Equal(t, want, seen, "a secret is kept once, not when it was destroyed, and not by a scrubber that has forgotten it")
}

func lookAtMemory() {
	debug.SetGCPercent(-1) // nothing is cleaned up behind our back
	// The mask finds the bytes without holding them: what is looked for is never
	// in memory but where the code under test has put it.
	var value, mask [32]byte
	_, _ = rand.Read(mask[:])
	_, _ = rand.Read(value[:])
	sought := make([]byte, 32)
	for i := range value {
		sought[i] = value[i] ^ mask[i]
	}
	s := credential.NewSecret(value[:])
	alive := countMasked(sought, mask[:])
	_ = s.Use(func(b []byte) error { _ = hex.EncodedLen(len(b)); return nil })
	other := credential.NewSecret([]byte("some other secret"))
	_ = s.Equal(other)
	_ = fmt.Sprintf("%v %x", s, s)
	s.Destroy()
	destroyed := countMasked(sought, mask[:])

	for i := range value {
		value[i] = sought[i] ^ mask[i]
	}
	s = credential.NewSecret(value[:])
	var scrubber credential.Scrubber
	_ = scrubber.Add("k", s)
	_ = scrubber.Remove(credential.Ref{Name: "k"}, s)
	s.Destroy()
	removed := countMasked(sought, mask[:])
	runtime.KeepAlive(&scrubber)
	fmt.Printf("alive %d destroyed %d removed %d\n", alive, destroyed, removed)
}

// countMasked counts where in this process's memory the bytes are that sought
// is with mask taken off.
func countMasked(sought, mask []byte) (n int) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		panic(err)
	}
	defer mem.Close()
	first := []byte{sought[0] ^ mask[0], sought[1] ^ mask[1], sought[2] ^ mask[2]}
	defer clear(first)
	buf := make([]byte, 1<<20)
	defer clear(buf)
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		lo, hi, ok := strings.Cut(fields[0], "-")
		if !ok || !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		from, _ := strconv.ParseInt(lo, 16, 64)
		to, _ := strconv.ParseInt(hi, 16, 64)
		for ; from < to; from += int64(len(buf) - len(sought)) {
			got, err := mem.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
			if got == 0 && err != nil && err != io.EOF {
				break
			}
			window := buf[:got]
			for at := 0; ; {
				i := bytes.Index(window[at:], first)
				if i < 0 || at+i+len(sought) > len(window) {
					break
				}
				at += i
				same := true
				for k := range sought {
					same = same && window[at+k]^mask[k] == sought[k]
				}
				// The buffer itself is memory too.
				if same {
					n++
				}
				at++
			}
			clear(buf)
		}
	}
	return n
}
