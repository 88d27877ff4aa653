package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
)

// A pattern is one form in which a secret may appear.
type pattern struct {
	bytes  []byte
	ref    Ref
	form   string // "raw", "hex" or "base64"
	known  int    // how often it was added and not removed
	anchor int    // where the windows begin under which it is filed
}

// patternsOf calls add with the forms of one secret: as it is, with spaces as a
// form sends them, in hexadecimal, and in both base64 alphabets at all three
// alignments. What escaping does on top of that, to any character, is undone
// by the views of view.go before these are looked for.
func patternsOf(secret []byte, add func(form string, b []byte)) {
	var forms [][]byte
	// form keeps b, or zeroes it if it is too short or there already.
	form := func(name string, b []byte) {
		if len(b) < MinLength || slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Equal(f, b) }) {
			clear(b)
			return
		}
		forms = append(forms, b)
		add(name, b)
	}
	form("raw", bytes.Clone(secret))
	form("raw", bytes.ReplaceAll(secret, []byte(" "), []byte("+")))
	lower := hex.AppendEncode(nil, secret)
	upper := bytes.ToUpper(lower)
	form("hex", lower)
	form("hex", upper)
	for lead := range 3 {
		// With lead bytes before it, the characters that the secret alone
		// determines are those that start at or after its first bit and end at
		// or before its last. What follows and the padding fall outside.
		src := append(make([]byte, lead, lead+len(secret)), secret...)
		from, to := (8*lead+5)/6, 8*len(src)/6
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			all := e.AppendEncode(nil, src)
			form("base64", bytes.Clone(all[from:to]))
			clear(all)
		}
		clear(src)
	}
}
