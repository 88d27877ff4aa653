package translate

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func seeds(f *testing.F, section string) {
	paths, err := filepath.Glob("testdata/*/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		c := readCase(&testing.T{}, path)
		in := strings.TrimSpace(c[section])
		if section == "stream" {
			in = c.stream()
		}
		if in != "" {
			f.Add(protocolOf(path) == Responses, in)
		}
	}
}

func which(responses bool) Protocol {
	if responses {
		return Responses
	}
	return Messages
}

// A request is refused with a path that exists, or becomes valid JSON, the same
// each time. Giving features up refuses no more than before.
func FuzzRequest(f *testing.F) {
	seeds(f, "request")
	f.Fuzz(func(t *testing.T, responses bool, body string) {
		from := which(responses)
		_, sent, err := Request(from, []byte(body), Options{})
		_, lax, laxErr := Request(from, []byte(body), Options{Ignore: Ignorable()})
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Reason)
		} else {
			require.NoError(t, laxErr)
			require.NoError(t, (&doc{}).parse(sent), "%s", sent)
			_, again, err := Request(from, []byte(body), Options{})
			require.NoError(t, err)
			require.Equal(t, sent, again)
		}
		if laxErr == nil {
			require.NoError(t, (&doc{}).parse(lax), "%s", lax)
		}
	})
}

// An answer is refused or becomes valid JSON.
func FuzzResponse(f *testing.F) {
	seeds(f, "answer")
	f.Fuzz(func(t *testing.T, responses bool, body string) {
		x, _, err := Request(which(responses), []byte(smallest(which(responses))), Options{})
		require.NoError(t, err)
		if told, err := x.Response([]byte(body)); err == nil {
			require.NoError(t, (&doc{}).parse(told), "%s", told)
		}
		require.NoError(t, (&doc{}).parse(x.Error(500, []byte(body))))
	})
}

// A stream comes out well formed and the same however it was cut.
func FuzzStream(f *testing.F) {
	seeds(f, "stream")
	f.Fuzz(func(t *testing.T, responses bool, in string) {
		from := which(responses)
		read := func(r io.Reader) []byte {
			x, _, err := Request(from, []byte(smallest(from)), Options{ID: "made-up"})
			require.NoError(t, err)
			told, err := io.ReadAll(x.Stream(r))
			require.NoError(t, err)
			return told
		}
		whole := read(strings.NewReader(in))
		require.Equal(t, string(whole), string(read(iotest.OneByteReader(strings.NewReader(in)))))
		require.NoError(t, check(from, whole), "%s", whole)

		lost := errors.New("lost")
		x, _, err := Request(from, []byte(smallest(from)), Options{ID: "made-up"})
		require.NoError(t, err)
		told, err := io.ReadAll(x.Stream(io.MultiReader(strings.NewReader(in), iotest.ErrReader(lost))))
		require.ErrorIs(t, err, lost)
		require.True(t, bytes.HasPrefix(whole, told))
	})
}
