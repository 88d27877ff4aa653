package credential_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// A child process that writes the secret it was given to its stderr, cut in two.
func TestScrubWriterOfAChild(t *testing.T) {
	if v := os.Getenv("TWINWARD_TEST_CHILD"); v != "" {
		fmt.Fprint(os.Stderr, "starting with "+v[:10])
		fmt.Fprint(os.Stderr, v[10:]+"\nready\nthe end is "+v[:10])
		os.Exit(3)
	}
	canary, scrubber := watch(t)
	var out bytes.Buffer
	w := scrubber.Writer(&out)
	cmd := exec.Command(os.Args[0], "-test.run=^TestScrubWriterOfAChild$")
	cmd.Env = append(os.Environ(), "TWINWARD_TEST_CHILD="+canary)
	cmd.Stderr = w
	require.Error(t, cmd.Run())
	assert.NotContains(t, out.String(), "the end is "+canary[:1], "it could have gone on")
	require.NoError(t, w.Close())
	assert.Equal(t, "starting with [redacted:canary]\nready\nthe end is "+canary[:10], out.String())
	assert.Equal(t, map[string]int{"canary": 1}, w.Found().Names())
}

func TestScrubWriterOfALog(t *testing.T) {
	canary, scrubber := watch(t)
	var out bytes.Buffer
	w := scrubber.Writer(&out)
	for _, h := range []slog.Handler{slog.NewJSONHandler(w, nil), slog.NewTextHandler(w, nil)} {
		slog.New(h).With("key", canary).Error("failed with "+canary, "error", errors.New("token "+canary), "url", "https://a.example/?k="+canary)
		credentialtest.AssertNoLeak(t, scrubber, out.Bytes())
	}
	assert.Equal(t, 2, bytes.Count(out.Bytes(), []byte("\n")), "each record is there at once")
	assert.Equal(t, map[string]int{"canary": 8}, w.Found().Names())
	broken := scrubber.Writer(failing{})
	_, err := broken.Write([]byte("hello\n"))
	assert.ErrorContains(t, err, "disk full")
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
