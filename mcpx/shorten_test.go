package mcpx

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// FuzzShorten: what a reader leaves out changes neither what it takes for JSON
// nor which parts of the text it returns.
func FuzzShorten(f *testing.F) {
	long := strings.Repeat("long and plain, ", 20)
	f.Add([]byte(`{"a":"LONG","b":["LONG",1],"c":{"d":"x","LONG":"LONG"}} `))
	f.Add([]byte(`{"a" : "LONG" , "LONG" : 1, "LONG":2}`))
	f.Add([]byte(`{"a":"LONG\"LONG","b":"LONG` + "\x7f\xc3\xa9" + `LONG","c":"LONG` + "\n" + `"}`))
	f.Add([]byte(`{"a":1"LONG","b":"LONG`))
	f.Add([]byte(`{"LONG":"LONG","x":"LONG"LONG"}"`))
	f.Add([]byte(`{"LONG":1,"\u006cREST":2}`)) // one name twice
	f.Add([]byte(`{"LONG":1,"LONGREST":2,"":3}`))
	f.Add([]byte(`{"":0,"LONG"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		text = bytes.ReplaceAll(text, []byte("LONG"), []byte(long))
		text = bytes.ReplaceAll(text, []byte("REST"), []byte(long[1:]))
		if checkDepth(text) != nil {
			return
		}
		whole := jsontext.NewDecoder(bytes.NewReader(text))
		r := newReader(text)
		defer r.close()
		if r.PeekKind() != '{' {
			return
		}
		type member struct{ key, value string }
		var want, got []member
		_, failed := whole.ReadToken()
		for failed == nil && whole.PeekKind() != '}' {
			var key, v jsontext.Value
			if key, failed = whole.ReadValue(); failed == nil {
				name, _ := jsontext.AppendUnquote(nil, key)
				if v, failed = whole.ReadValue(); failed == nil {
					want = append(want, member{string(name), string(v)})
				}
			}
		}
		if failed == nil {
			_, failed = whole.ReadToken()
		}
		err := r.object(func(key []byte) error {
			name := string(key)
			v, err := r.value()
			if err == nil {
				got = append(got, member{name, string(v)})
			}
			return err
		})
		require.Equal(t, want, got)
		require.Equal(t, failed == nil, err == nil, "%v, %v", failed, err)
		if err != nil {
			require.ErrorIs(t, err, errJSON) // of two mistakes it may be the other
			return
		}
		_, failed = whole.ReadToken()
		_, err = r.ReadToken()
		require.Equal(t, failed == io.EOF, err == io.EOF)
	})
}

// A message that is nearly all text is not what the decoder has to read.
func TestShorten(t *testing.T) {
	text := []byte(`{"a":"` + strings.Repeat("x", 4096) + `","b":["` + strings.Repeat("y", 4096) + `"]}`)
	short, cuts := shorten(text, nil)
	require.Equal(t, `{"a":"","b":[""]}`, string(short))
	require.Equal(t, []cut{{6, 4096}, {14, 8192}}, cuts)
	// Mistakes are where they are in the whole text.
	r := newReader([]byte(`{"a":"` + strings.Repeat("x", 4096) + `","b":nope}`))
	defer r.close()
	require.ErrorContains(t, r.object(func([]byte) error {
		_, err := r.value()
		return err
	}), "at byte 4109")
	// What has to be read is left as it is.
	for _, s := range []string{"\\u0041", "é", "\x1f", "\xff"} {
		for at := range 9 { // wherever the eight bytes begin
			text := []byte(`["` + strings.Repeat("x", 300+at) + s + strings.Repeat("x", 300) + `"]`)
			short, _ := shorten(text, nil)
			require.Equal(t, string(text), string(short))
		}
	}
}
