package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
)

func TestDisclosure(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	r := k.begin(act("a", "u", audit.ClassWrite))
	other := k.begin(act("a", "u", audit.ClassWrite))
	line := must(audit.VerifyProof(must(audit.Prove(ctx, k.st.FS(), r.Seq)).Text(), nil, k.key.VerifierKey())).Record
	d := must(k.values().Reveal(ctx, r))
	assert.NoError(t, audit.VerifyDisclosure(d, line))
	assert.ErrorIs(t, audit.VerifyDisclosure(d, must(other.MarshalJSON())), audit.ErrDisclosure)

	for name, raw := range map[string]string{"channel": `"#deals"`, "text": `"` + marked + `"`, "n": `[1,{"a":null}]`} {
		one, err := d.Only(name)
		require.NoError(t, err)
		assert.Equal(t, raw, string(one.Value))
		assert.NoError(t, audit.VerifyDisclosure(one, line))
		text, err := json.Marshal(one)
		require.NoError(t, err)
		again, err := audit.ParseDisclosure(text)
		require.NoError(t, err)
		assert.Equal(t, one, again)
		_, err = one.Only("channel")
		assert.ErrorIs(t, err, audit.ErrDisclosure)
		if name != "text" {
			for enc, leak := range encodings(marked) {
				assert.False(t, bytes.Contains(text, leak), enc)
			}
			for _, opening := range []string{b64(d.Opening), b64(must(d.Only("text")).Opening)} {
				assert.NotContains(t, string(text), opening, "it opens more than the one field")
			}
		}

		change := func(f func(d *audit.Disclosure)) {
			bad, err := audit.ParseDisclosure(text)
			require.NoError(t, err)
			f(&bad)
			assert.ErrorIs(t, audit.VerifyDisclosure(bad, line), audit.ErrDisclosure, "%+v", bad)
		}
		change(func(d *audit.Disclosure) { d.Value[0] ^= 1 })
		change(func(d *audit.Disclosure) { d.Opening[0] ^= 1 })
		change(func(d *audit.Disclosure) { d.Opening = d.Opening[:31] })
		change(func(d *audit.Disclosure) { d.Field = "other" })
		change(func(d *audit.Disclosure) { d.Field = "" })
		change(func(d *audit.Disclosure) { d.Seq++ })
		change(func(d *audit.Disclosure) { d.At = (d.At + 1) % 3 })
		change(func(d *audit.Disclosure) { d.At = -1 })
		change(func(d *audit.Disclosure) { d.At = 3 })
		change(func(d *audit.Disclosure) { d.Fields = d.Fields[:2] })
		change(func(d *audit.Disclosure) { d.Fields = nil })
		change(func(d *audit.Disclosure) { d.Fields[0][3] ^= 1 })
		change(func(d *audit.Disclosure) { // the same bytes, cut elsewhere
			if d.Fields, d.At = [][]byte{bytes.Join(d.Fields[:2], nil), d.Fields[2]}, 1; name == "channel" {
				d.At = 0
			}
		})
		change(func(d *audit.Disclosure) { d.Opening = append(d.Opening, 0) }) // HMAC pads keys with zeros
		change(func(d *audit.Disclosure) { d.Fields = make([][]byte, 1000) })
	}
	for _, name := range []string{"", "a", "Channel"} {
		_, err := d.Only(name)
		assert.ErrorIs(t, err, audit.ErrDisclosure)
	}
	bad := d
	bad.Opening = nil
	assert.ErrorIs(t, audit.VerifyDisclosure(bad, line), audit.ErrDisclosure)
	bad = d
	bad.Field = "channel"
	assert.ErrorIs(t, audit.VerifyDisclosure(bad, line), audit.ErrDisclosure)
	assert.ErrorIs(t, audit.VerifyDisclosure(d, line[1:]), audit.ErrDisclosure)
	in := act("a", "u", audit.ClassWrite)
	in.Args = nil
	assert.ErrorIs(t, audit.VerifyDisclosure(audit.Disclosure{Seq: 3, Opening: d.Opening}, must(k.begin(in).MarshalJSON())), audit.ErrDisclosure)
}

// The members of an object with too many are not disclosed one by one.
func TestManyFields(t *testing.T) {
	for n, ok := range map[int]bool{0: true, 1: true, 256: true, 257: false} {
		k := newKeeper(t, audit.Options{})
		args := []byte("{")
		for i := range n {
			args = fmt.Appendf(args, `"f%d":%d,`, i, i)
		}
		in := act("a", "u", audit.ClassWrite)
		in.Args = append(bytes.TrimSuffix(args, []byte(",")), '}')
		r := k.begin(in)
		assert.Equal(t, ok, r.Args.Fields != nil, n)
		d := must(k.values().Reveal(ctx, r))
		one, err := d.Only("f0")
		if !ok || n == 0 {
			assert.ErrorIs(t, err, audit.ErrDisclosure)
			continue
		}
		require.NoError(t, err)
		assert.NoError(t, audit.VerifyDisclosure(one, must(r.MarshalJSON())))
	}
}
