package translate

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew; then read the difference")

// A goldenCase is a file of testdata: sections that start with "-- name --".
//
//	ignore, pass: words of the host, one a line
//	max_completion_tokens: OpenAI's newer field
//	request: the client's; sent: the chat request, or refused: the error
//	answer: the backend's, whole; told: the client's
//	stream: the backend's; told: the client's
//	status: of an answer that is an error
//	notes, usage
type goldenCase map[string]string

var goldenOrder = []string{"why", "ignore", "pass", "max_completion_tokens", "request", "sent", "refused", "status", "answer", "stream", "told", "notes", "usage"}

func readCase(t *testing.T, path string) goldenCase {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	c, name := goldenCase{}, ""
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(rest, " --\n") {
			name = strings.TrimSuffix(rest, " --\n")
			require.Contains(t, goldenOrder, name)
			c[name] = ""
			continue
		}
		c[name] += line
	}
	return c
}

func (c goldenCase) write(t *testing.T, path string) {
	var b strings.Builder
	for _, name := range goldenOrder {
		if text, ok := c[name]; ok {
			fmt.Fprintf(&b, "-- %s --\n%s", name, text)
		}
	}
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
}

func (c goldenCase) options() Options {
	_, newer := c["max_completion_tokens"]
	return Options{Ignore: strings.Fields(c["ignore"]), Pass: strings.Fields(c["pass"]), MaxCompletionTokens: newer}
}

// stream returns the backend's stream: "\r" at the end of a line is a CR.
func (c goldenCase) stream() string { return strings.ReplaceAll(c["stream"], "\\r\n", "\r\n") }

func protocolOf(path string) Protocol {
	if strings.Contains(path, "responses") {
		return Responses
	}
	return Messages
}

func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(paths), 30)
	for _, path := range paths {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(path, "testdata/"), ".txt"), func(t *testing.T) {
			want := readCase(t, path)
			got := goldenCase{}
			for _, in := range []string{"why", "ignore", "pass", "max_completion_tokens", "request", "status", "answer", "stream"} {
				if text, ok := want[in]; ok {
					got[in] = text
				}
			}
			require.NoError(t, want.options().Validate())
			runCase(t, protocolOf(path), got)
			if *update {
				got.write(t, path)
				return
			}
			for _, name := range goldenOrder {
				assert.Equal(t, want[name], got[name], name)
			}
		})
	}
}

// runCase fills in what comes out.
func runCase(t *testing.T, from Protocol, c goldenCase) {
	request := strings.TrimSpace(c["request"])
	if request == "" {
		request = map[Protocol]string{Messages: `{"model":"m","max_tokens":9,"messages":[]}`, Responses: `{"model":"m","input":"hi"}`}[from]
		if c["stream"] != "" {
			request = strings.TrimSuffix(request, "}") + `,"stream":true}`
		}
	}
	x, sent, err := Request(from, []byte(request), c.options())
	if err != nil {
		c["refused"] = err.Error() + "\n"
		return
	}
	assert.Nil(t, (&doc{}).parse(sent), "%s", sent)
	if _, ok := c["request"]; ok {
		c["sent"] = string(sent) + "\n"
	}
	switch {
	case c["status"] != "":
		var status int
		_, err := fmt.Sscan(c["status"], &status)
		require.NoError(t, err)
		c["told"] = string(x.Error(status, []byte(c["answer"]))) + "\n"
	case c["answer"] != "":
		told, err := x.Response([]byte(c["answer"]))
		if err != nil {
			told = []byte("error: " + err.Error())
		} else {
			assert.Nil(t, (&doc{}).parse(told), "%s", told)
		}
		c["told"] = string(told) + "\n"
	case c["stream"] != "":
		told, err := io.ReadAll(x.Stream(strings.NewReader(c.stream())))
		require.NoError(t, err)
		require.NoError(t, check(from, told))
		c["told"] = string(told)
	}
	if notes := x.Notes(); len(notes) > 0 {
		c["notes"] = strings.Join(notes, "\n") + "\n"
	}
	if u, ok := x.Usage(); ok {
		c["usage"] = fmt.Sprintf("%+v\n", u)
	}
}

// However the backend's stream is cut, the client's is the same.
func TestStreamsCutAnywhere(t *testing.T) {
	paths, err := filepath.Glob("testdata/*/*.txt")
	require.NoError(t, err)
	for _, path := range paths {
		c := readCase(t, path)
		if c["stream"] == "" {
			continue
		}
		from, in := protocolOf(path), c.stream()
		read := func(r io.Reader) string {
			request := strings.TrimSpace(c["request"])
			if request == "" {
				request = map[Protocol]string{Messages: `{"model":"m","messages":[]}`, Responses: `{"model":"m","input":"hi"}`}[from]
			}
			opts := c.options()
			opts.ID = "made-up"
			x, _, err := Request(from, []byte(request), opts)
			require.NoError(t, err)
			told, err := io.ReadAll(x.Stream(r))
			require.NoError(t, err)
			return string(told)
		}
		whole := read(strings.NewReader(in))
		assert.Equal(t, whole, read(iotest.OneByteReader(strings.NewReader(in))), path)
		step := 7
		if os.Getenv("TWINWARD_FULL") != "" {
			step = 1
		}
		for i := 0; i < len(in); i += step {
			cut := read(io.MultiReader(strings.NewReader(in[:i]), strings.NewReader(in[i:])))
			require.Equal(t, whole, cut, "%s cut at %d", path, i)
		}
		// With every line ending.
		for _, end := range []string{"\r\n", "\r"} {
			other := strings.ReplaceAll(strings.ReplaceAll(in, "\r\n", "\n"), "\n", end)
			assert.Equal(t, whole, read(strings.NewReader(other)), path)
			assert.Equal(t, whole, read(iotest.OneByteReader(strings.NewReader(other))), path)
		}
	}
}

// A stream that breaks off anywhere ends with an error event, and never looks
// complete.
func TestStreamsThatBreakOff(t *testing.T) {
	for _, from := range []Protocol{Messages, Responses} {
		const in = "data: {\"id\":\"1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n" +
			"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n" // from here on it is complete
		for i := range len(in) - 1 {
			x, _, err := Request(from, []byte(smallest(from)), Options{})
			require.NoError(t, err)
			told, err := io.ReadAll(x.Stream(strings.NewReader(in[:i])))
			require.NoError(t, err)
			require.NoError(t, check(from, told), "%q", in[:i])
			require.True(t, bytes.Contains(told, []byte("error")), "%q", in[:i])
			require.False(t, bytes.Contains(told, []byte("message_stop")) || bytes.Contains(told, []byte("response.completed")), "%q", in[:i])

			// An error of the connection is the reader's.
			x, _, _ = Request(from, []byte(smallest(from)), Options{})
			lost := errors.New("lost")
			told, err = io.ReadAll(x.Stream(io.MultiReader(strings.NewReader(in[:i]), iotest.ErrReader(lost))))
			require.ErrorIs(t, err, lost)
			require.False(t, bytes.Contains(told, []byte("message_stop")) || bytes.Contains(told, []byte("response.completed")))
		}
	}
}

func smallest(from Protocol) string {
	if from == Messages {
		return `{"model":"m","messages":[],"stream":true}`
	}
	return `{"model":"m","input":"hi","stream":true}`
}

// What arrived is passed on before more is waited for.
func TestStreamsDoNotWait(t *testing.T) {
	for _, from := range []Protocol{Messages, Responses} {
		x, _, err := Request(from, []byte(smallest(from)), Options{})
		require.NoError(t, err)
		pr, pw := io.Pipe()
		told := x.Stream(pr)
		buf := make([]byte, 64<<10)
		for i := range 5 {
			go fmt.Fprintf(pw, "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"piece %d\"}}]}\n\n", i)
			var got string
			for !strings.Contains(got, fmt.Sprintf("piece %d", i)) {
				n, err := told.Read(buf)
				require.NoError(t, err)
				got += string(buf[:n])
			}
		}
		pw.Close()
	}
}
