package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// encodings are the forms that a scrubber promises to find.
var encodings = []struct {
	name string
	f    func(string) string
}{
	{"raw", func(s string) string { return s }},
	{"query", url.QueryEscape},
	{"path", url.PathEscape},
	{"percent all, lower", func(s string) string { return each(s, "%%%02x") }},
	{"percent all, upper", func(s string) string { return each(s, "%%%02X") }},
	{"query in query", func(s string) string { return url.QueryEscape(url.QueryEscape(s)) }},
	{"percent all twice", func(s string) string { return each(each(s, "%%%02x"), "%%%02X") }},
	{"query in query in json", func(s string) string {
		return strings.ReplaceAll(jsonEscape(url.QueryEscape(url.QueryEscape(s))), "%", `\u0025`)
	}},
	{"hex", func(s string) string { return hex.EncodeToString([]byte(s)) }},
	{"HEX", func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) }},
	{"base64", lead(base64.StdEncoding, "")},
	{"base64+1", lead(base64.StdEncoding, "a")},
	{"base64+2", lead(base64.StdEncoding, "ab")},
	{"raw base64", lead(base64.RawStdEncoding, "user:")},
	{"base64url", lead(base64.URLEncoding, "")},
	{"base64url+1", lead(base64.URLEncoding, "x")},
	{"base64url+2", lead(base64.RawURLEncoding, "xy")},
	{"json", jsonEscape},
	{"json, all slashes", func(s string) string { return strings.ReplaceAll(jsonEscape(s), "/", `\/`) }},
	{`json, all \u00xx`, func(s string) string { return each(s, `\u%04x`) }},
	{`json, all \u00XX`, func(s string) string { return each(s, `\u%04X`) }},
	{"json in json", func(s string) string { return jsonEscape(jsonEscape(s)) }},
	{`json in json, all \u00xx`, func(s string) string { return jsonEscape(each(s, `\u%04x`)) }},
	{"query in json", func(s string) string { return strings.ReplaceAll(jsonEscape(url.QueryEscape(s)), "%", `\u0025`) }},
	{"base64 in query", func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) }},
	{"base64 in json", func(s string) string {
		return strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(s)), "/", `\/`)
	}},
	{"base64 of json", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(`{"k":"` + s + `"}`)) }},
}

func each(s, format string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

func lead(e *base64.Encoding, prefix string) func(string) string {
	return func(s string) string { return e.EncodeToString([]byte(prefix + s + "tail")) }
}

func jsonEscape(s string) string {
	b, _ := json.Marshal(s)
	return string(b[1 : len(b)-1])
}

const alphabet = `abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 !"#$%&'()*+,-./:;<=>?@[\]^_{|}~`

func randomSecret(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

func scrubberOf(t testing.TB, secrets map[string]string) *Scrubber {
	t.Helper()
	s := new(Scrubber)
	for name, v := range secrets {
		require.NoError(t, s.Add(name, NewSecret([]byte(v))))
	}
	return s
}

func TestScrubberFindsEveryEncoding(t *testing.T) {
	for _, secret := range []string{
		"ghp_0123456789abcdefABCDEF0123456789wxyz",
		"pass\\word/with \"quotes\" & 100% +plus",
		"exactly8",
		`%41%42\u0043\"\\/`,
		"line one\nline two\ttab",
		"<script>&amp;</script>",
	} {
		s := scrubberOf(t, map[string]string{"a b": secret})
		for _, e := range encodings {
			t.Run(e.name, func(t *testing.T) {
				in := "before " + e.f(secret) + " after"
				out, found := s.Redact([]byte(in))
				assert.Equal(t, map[string]int{"a b": 1}, found.Names(), "%q", in)
				assert.Contains(t, string(out), "[redacted:a_b]")
				assert.True(t, strings.HasPrefix(string(out), "before "), "%q", out)
				assert.True(t, strings.HasSuffix(string(out), " after"), "%q", out)
				assert.NotContains(t, string(out), secret)
				assert.NotContains(t, string(out), e.f(secret))
			})
		}
	}
}

// rounds scales a random test: all of full with TWINWARD_SOAK=1, a tenth with
// TWINWARD_FULL=1, else a fiftieth.
func rounds(full int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return full
	case os.Getenv("TWINWARD_FULL") == "1":
		return full / 10
	}
	return full / 50
}

func TestScrubberRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range rounds(5000) {
		secret := randomSecret(r, 8+r.IntN(60))
		other := randomSecret(r, 8+r.IntN(60))
		s := scrubberOf(t, map[string]string{"one": secret, "two": other})
		e := encodings[r.IntN(len(encodings))]
		g := encodings[r.IntN(len(encodings))]
		in := randomSecret(r, r.IntN(40)) + "\n\n" + e.f(secret) + "\n\n" + randomSecret(r, r.IntN(20)) + "\n\n" + g.f(other) + "\n\n"
		whole, found := s.Redact([]byte(in))
		require.Equal(t, map[string]int{"one": 1, "two": 1}, found.Names(), "%s, %s: %q in %q", e.name, g.name, secret, in)
		checkStream(t, s, []byte(in), whole, found, r)
	}
}

// checkStream asserts that cutting a text changes nothing.
func checkStream(t testing.TB, s *Scrubber, in, whole []byte, found Found, r *rand.Rand) {
	t.Helper()
	reader := s.Reader(&cutter{b: in, r: r})
	out, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Equal(t, string(whole), string(out), "in: %q", in)
	got := reader.Found()
	if len(found) == 0 {
		require.Empty(t, got)
	} else {
		require.Equal(t, found, got)
	}
}

// A cutter reads in random small pieces.
type cutter struct {
	b []byte
	r *rand.Rand
}

func (c *cutter) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.b[:1+c.r.IntN(min(9, len(c.b)))])
	c.b = c.b[n:]
	return n, nil
}

func TestScrubberEveryCut(t *testing.T) {
	const secret = `tok/en"with\escapes%20`
	s := scrubberOf(t, map[string]string{"k": secret})
	for _, e := range encodings {
		in := `x\\` + e.f(secret) + `\n"` + e.f(secret)
		whole, found := s.Redact([]byte(in))
		for cut := range len(in) {
			reader := s.Reader(io.MultiReader(strings.NewReader(in[:cut]), strings.NewReader(in[cut:])))
			out, err := io.ReadAll(reader)
			require.NoError(t, err)
			require.Equal(t, string(whole), string(out), "%s cut at %d", e.name, cut)
			require.Equal(t, found, reader.Found(), "%s cut at %d", e.name, cut)
		}
	}
}

func TestScrubberOverlaps(t *testing.T) {
	s := scrubberOf(t, map[string]string{
		"short": "abcdefghij", "long": "abcdefghijklmnop", "tail": "mnopqrstuvwx", "same": "aaaaaaaaaaaa",
	})
	for _, c := range []struct {
		in, out string
		found   map[string]int
	}{
		{"-abcdefghij-", "-[redacted:short]-", map[string]int{"short": 1}},
		{"-abcdefghijklmnop-", "-[redacted:long]-", map[string]int{"short": 1, "long": 1}},
		{"-abcdefghijklmnopqrstuvwx-", "-[redacted:long]-", map[string]int{"short": 1, "long": 1, "tail": 1}},
		{"-" + strings.Repeat("a", 50) + "-", "-[redacted:same]-", map[string]int{"same": 1}},
		{"abcdefghijabcdefghij", "[redacted:short][redacted:short]", map[string]int{"short": 2}},
		{"-abcdefghijklmno", "-[redacted:short]klmno", map[string]int{"short": 1}},
		{"", "", nil},
	} {
		out, found := s.Redact([]byte(c.in))
		assert.Equal(t, c.out, string(out))
		assert.Equal(t, c.found, found.Names())
		r := s.Reader(iotest.OneByteReader(strings.NewReader(c.in)))
		streamed, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, c.out, string(streamed))
		assert.Equal(t, c.found, r.Found().Names())
	}
}

// A run of overlapping finds must not make the reader keep the whole stream.
func TestScrubReaderIsBounded(t *testing.T) {
	s := scrubberOf(t, map[string]string{"same": strings.Repeat("a", 40)})
	r := s.Reader(bytes.NewReader(bytes.Repeat([]byte("a"), 4<<20)))
	_, err := io.Copy(io.Discard, r)
	require.NoError(t, err)
	assert.Less(t, cap(r.filter.held), 64<<10)
	assert.Equal(t, map[string]int{"same": 1}, r.Found().Names())
}

// What cannot be the start of a secret is passed on at once.
func TestScrubReaderHoldsBackOnlySuspects(t *testing.T) {
	s := scrubberOf(t, map[string]string{"k": "secret-0123456789"})
	src := make(chan string, 1)
	r := s.Reader(readerFunc(func(p []byte) (int, error) { return copy(p, <-src), nil }))
	buf := make([]byte, 100)
	for _, step := range []struct{ in, out string }{
		{"data: hello\n\n", "data: hello\n\n"},
		{"data: se", "data: "}, // could go on
		{"arch\n\n", "search\n\n"},
		{"50% of \\u00", "50% of "},
		{"41 secret-012345678", "\\u0041 "},
		{"9!", "[redacted:k]!"},
	} {
		src <- step.in
		n, err := r.Read(buf)
		require.NoError(t, err)
		assert.Equal(t, step.out, string(buf[:n]))
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestScrubberKeepsJSONValid(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for range rounds(5000) {
		secret := randomSecret(r, 8+r.IntN(20))
		s := scrubberOf(t, map[string]string{`we"ird\name`: secret})
		e := encodings[r.IntN(len(encodings))]
		for strings.Contains(e.name, "in json") { // the document around would be one level too many
			e = encodings[r.IntN(len(encodings))]
		}
		doc, err := json.Marshal(map[string]any{
			"a": randomSecret(r, 10) + secret + randomSecret(r, 10),
			"b": e.f(secret),
			"c": map[string]string{"nested": jsonEscape(`"` + secret + `"`)},
			// Looks like the secret only when escapes are misread.
			"d": `\` + secret + "\n" + secret[1:],
			"e": "\u2028" + strings.ToUpper(secret),
		})
		require.NoError(t, err)
		out, found := s.Redact(doc)
		require.True(t, json.Valid(out), "%s -> %s", doc, out)
		require.GreaterOrEqual(t, found.Names()[`we"ird\name`], 4)
		checkStream(t, s, doc, out, found, r)
	}
}

// Text in which a secret's bytes overlap with escape sequences that mean
// something else still comes out as JSON.
func TestScrubberTakesWholeEscapes(t *testing.T) {
	for _, c := range []struct{ secret, in, out string }{
		{"nabcdefghij", `{"a":"x\nabcdefghij"}`, `{"a":"x[redacted:k]"}`},
		{`abcdefghij\`, `{"a":"abcdefghij\""}`, `{"a":"[redacted:k]"}`},
		{"0041abcdefgh", `{"a":"\u0041abcdefgh"}`, `{"a":"[redacted:k]"}`},
		{`ab\ncdefgh\`, `{"a":"ab\ncdefgh\""}`, `{"a":"[redacted:k]"}`},
		{"abcdefgh\\u00", `{"a":"abcdefgh\u0041"}`, `{"a":"[redacted:k]"}`},
	} {
		s := scrubberOf(t, map[string]string{"k": c.secret})
		out, _ := s.Redact([]byte(c.in))
		assert.Equal(t, c.out, string(out))
		streamed, err := io.ReadAll(s.Reader(iotest.OneByteReader(strings.NewReader(c.in))))
		require.NoError(t, err)
		assert.Equal(t, c.out, string(streamed))
	}
}

// Characters outside ASCII take two bytes or more, and two escapes beyond the
// basic plane.
func TestScrubberUnicode(t *testing.T) {
	for _, c := range []struct{ secret, escaped string }{
		{"p\u00e4ssw\u00f6rd-\u00fc", `p\u00e4ssw\u00f6rd-\u00fc`},
		{"key-0123-\U0001F511", `key-0123-\ud83d\udd11`},
		{"\U0001F511-key-0123", `\uD83D\uDD11-key-0123`},
	} {
		s := scrubberOf(t, map[string]string{"k": c.secret})
		for _, tail := range []string{"", "after", `\u00e9`} {
			in := "before " + c.escaped + tail
			out, found := s.Redact([]byte(in))
			assert.Equal(t, "before [redacted:k]"+tail, string(out))
			assert.Equal(t, map[string]int{"k": 1}, found.Names())
			streamed, err := io.ReadAll(s.Reader(iotest.OneByteReader(strings.NewReader(in))))
			require.NoError(t, err)
			assert.Equal(t, string(out), string(streamed))
		}
	}
}

func TestScrubberLengths(t *testing.T) {
	s := new(Scrubber)
	require.ErrorIs(t, s.Add("short", NewSecret([]byte("1234567"))), ErrLength)
	require.ErrorIs(t, s.Add("long", NewSecret(make([]byte, MaxLength+1))), ErrLength)
	require.ErrorIs(t, s.Add("none", Secret{}), ErrDestroyed)
	in := []byte("1234567")
	out, found := s.Redact(in)
	assert.Equal(t, &in[0], &out[0], "nothing found, nothing copied")
	assert.Nil(t, found)
	require.NoError(t, s.Add("ok", NewSecret(bytes.Repeat([]byte{'x'}, MaxLength))))
	assert.Equal(t, map[string]int{"ok": 1}, s.Count(bytes.Repeat([]byte{'x'}, MaxLength)))
}

func TestScrubberNeverChangesItsInput(t *testing.T) {
	s := scrubberOf(t, map[string]string{"k": "secret-0123456789"})
	in := []byte("a secret-0123456789 b")
	before := bytes.Clone(in)
	out, _ := s.Redact(in)
	assert.Equal(t, "a [redacted:k] b", string(out))
	assert.Equal(t, before, in)
}

func TestScrubberLargeBody(t *testing.T) {
	s := scrubberOf(t, map[string]string{"k": "secret-0123456789"})
	in := bytes.Repeat([]byte(`filler text with \"escapes\" and 100% `), 10_000)
	for _, at := range []int{piece - 5, 2*piece - 1, 3 * piece, len(in) - 17} {
		copy(in[at:], "secret-0123456789")
	}
	out, found := s.Redact(in)
	assert.Equal(t, map[string]int{"k": 4}, found.Names())
	assert.Len(t, out, len(in)-4*(17-len("[redacted:k]")))
}

func TestScrubberConcurrently(t *testing.T) {
	s := scrubberOf(t, map[string]string{"zero": "secret-0123456789"})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 20 {
				v := fmt.Sprintf("secret-%d-%d-abcdefgh", i, j)
				assert.NoError(t, s.Add(fmt.Sprint(i), NewSecret([]byte(v))))
				assert.Equal(t, map[string]int{fmt.Sprint(i): 1, "zero": 1}, s.Count([]byte(v+" secret-0123456789")))
			}
		})
	}
	wg.Wait()
}

func FuzzScrubber(f *testing.F) {
	f.Add([]byte("secret-0123456789"), []byte(`{"a":"`), []byte(`"}`), uint64(0))
	f.Add([]byte(`\\\\\\\\\\`), []byte(`\`), []byte(`u0041%`), uint64(7))
	f.Add([]byte(`a/b+c=%25%d`), []byte(`%25`), []byte(`252`), uint64(5))
	f.Add([]byte(`%%%%25%25%25`), []byte(`%2`), []byte(`\ud83d\`), uint64(14))
	f.Fuzz(func(t *testing.T, secret, before, after []byte, seed uint64) {
		if len(secret) < MinLength || len(secret) > 200 || len(before) > 2000 || len(after) > 2000 {
			return
		}
		s := new(Scrubber)
		require.NoError(t, s.Add("k", NewSecret(bytes.Clone(secret))))
		r := rand.New(rand.NewPCG(seed, seed))
		e := encodings[seed%uint64(len(encodings))]
		if strings.Contains(e.name, "json") && !json.Valid([]byte(`"`+e.f(string(secret))+`"`)) {
			return
		}
		if strings.Contains(e.name, "json") && e.name != `json, all \u00xx` && string(bytes.ToValidUTF8(secret, nil)) != string(secret) {
			return // JSON cannot hold it
		}
		if strings.Contains(e.name, `\u00`) && !isASCII(secret) {
			return // each byte would become a character
		}
		planted := []byte(e.f(string(secret)))
		// Separators, so that what stands around does not change what it means.
		in := bytes.Join([][]byte{before, planted, after}, []byte(" \n "))
		whole, found := s.Redact(in)
		require.GreaterOrEqual(t, found.Names()["k"], 1, "%s: %q in %q", e.name, secret, in)
		checkStream(t, s, in, whole, found, r)
	})
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

func BenchmarkScrubber(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	plain := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, 0123456789 times. "), 1100)[:64<<10]
	escaped := bytes.Repeat([]byte(`{\"title\":\"a/b\",\"n\":12345,\"body\":\"some more text here\"},`), 2048)[:64<<10]
	// What a tool returns: JSON in a text.
	inner, _ := json.MarshalIndent(map[string]any{"id": 12345, "title": "Fix the build", "url": "https://api.example.com/repos/a/b/pulls/17", "user": map[string]any{"login": "octo", "admin": false},
		"body": "The quick brown fox jumps over the lazy dog.\nThen it does so again, and again, until nobody looks."}, "", "  ")
	one, _ := json.Marshal(string(inner))
	result := bytes.Repeat(one, (64<<10)/len(one)+1)[:64<<10]
	for _, n := range []int{1, 10, 100, 1000} {
		secrets := make(map[string]Secret, n)
		for i := range n {
			secrets[fmt.Sprint(i)] = NewSecret([]byte(randomSecret(r, 40)))
		}
		s := NewMemory(secrets).Scrubber()
		for _, body := range []struct {
			name string
			b    []byte
		}{{"plain", plain}, {"result", result}, {"escaped", escaped}} {
			b.Run(fmt.Sprintf("%s/secrets=%d", body.name, n), func(b *testing.B) {
				b.SetBytes(int64(len(body.b)))
				for b.Loop() {
					if len(s.Count(body.b)) != 0 {
						b.Fatal("found something")
					}
				}
			})
		}
	}
}
