package argument

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// FuzzValid: what the parser is not shown changes nothing about what is valid.
func FuzzValid(f *testing.F) {
	long := strings.Repeat("long and plain, ", 20)
	f.Add([]byte(`{"a":"LONG","b":["LONG",1],"c":{"d":"x","LONG":"LONG"}} `))
	f.Add([]byte(`{"a" : "LONG" , "LONG" : 1, "LONG":2}`))
	f.Add([]byte(`{"a":"LONG\"LONG","b":"LONG` + "\x7f\xc3\xa9" + `LONG","c":"LONG` + "\n" + `"}`))
	f.Add([]byte(`{"a":1"LONG","b":"LONG`))
	f.Add([]byte(`"LONG"LONG"`))
	f.Add([]byte(`{"LONG":1,"\u006cREST":2}`)) // one name twice
	f.Add([]byte(`{"LONG":1,"LONGREST":2,"":3}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		src = bytes.ReplaceAll(src, []byte("LONG"), []byte(long))
		src = bytes.ReplaceAll(src, []byte("REST"), []byte(long[1:]))
		require.Equal(t, jsontext.Value(src).IsValid(), valid(src))
	})
}

func TestPlainText(t *testing.T) {
	for _, s := range []string{"\\", "é", "\x1f", "\xff", "\x00"} {
		for at := range 20 { // wherever the eight bytes begin
			require.False(t, plainText([]byte(strings.Repeat("x", at)+s+strings.Repeat("x", 9))), "%q at %d", s, at)
		}
	}
	for b := byte(' '); b < 0x80; b++ {
		require.Equal(t, b != '\\', plainText(bytes.Repeat([]byte{b}, 17)), "%q", b)
	}
}
