package filevault

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

// What split takes for a file it puts together again, byte for byte.
func FuzzSplit(f *testing.F) {
	f.Add([]byte(magic))
	f.Add([]byte(magic + "\x00\x00\x00\x02{}"))
	f.Add([]byte(magic + "\xff\xff\xff\xff{}"))
	head := `{"id":"00112233445566778899aabbccddeeff","kek":"k","root":"AAAA","generation":1,"previous":""}`
	f.Add(append([]byte(magic+"\x00\x00\x00"+string(rune(len(head)))+head), "sealed"...))
	f.Fuzz(func(t *testing.T, file []byte) {
		h, head, sealed, err := split(file)
		if err != nil {
			assert.ErrorIs(t, err, ErrCorrupt)
			assert.Zero(t, h)
			return
		}
		assert.True(t, bytes.Equal(file, append(bytes.Clone(head), sealed...)))
		text, err := json.Marshal(h)
		require.NoError(t, err)
		assert.Equal(t, text, head[len(magic)+4:])
	})
}

// A body that is taken can be written, and reads the same again.
func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"secrets":null}`))
	f.Add([]byte(`{"secrets":[{"name":"a","versions":[{"version":1,"state":"current","created":"2026-01-02T03:04:05Z","changed":"2026-01-02T03:04:05Z","sealed":1,"key":"AA==","value":"AA=="}]}]}`))
	f.Add([]byte(`{"secrets":[{"name":"a","versions":[{"version":1,"state":"destroyed","created":"2026-01-02T03:04:05Z","changed":"2026-01-02T03:04:05Z"}]}]} {}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parseBody(text, 7)
		if err != nil {
			assert.ErrorIs(t, err, ErrCorrupt)
			return
		}
		again, err := json.Marshal(b)
		require.NoError(t, err)
		c, err := parseBody(again, 7)
		require.NoError(t, err)
		twice, err := json.Marshal(c)
		require.NoError(t, err)
		assert.Equal(t, string(again), string(twice))
		for _, s := range b.Secrets {
			require.NoError(t, credential.CheckName(s.Name))
			n := 0
			for _, v := range s.Versions {
				if v.State == credential.StateCurrent {
					n++
				}
			}
			assert.LessOrEqual(t, n, 1)
		}
	})
}
