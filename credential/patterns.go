package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strings"
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
	seen := make(map[string]bool)
	form := func(name string, b []byte) {
		if len(b) >= MinLength && !seen[string(b)] {
			seen[string(b)] = true
			add(name, b)
		}
	}
	form("raw", bytes.Clone(secret))
	form("raw", bytes.ReplaceAll(secret, []byte(" "), []byte("+")))
	lower := hex.EncodeToString(secret)
	form("hex", []byte(lower))
	form("hex", []byte(strings.ToUpper(lower)))
	for lead := range 3 {
		// With lead bytes before it, the characters that the secret alone
		// determines are those that start at or after its first bit and end at
		// or before its last. What follows and the padding fall outside.
		src := append(make([]byte, lead, lead+len(secret)), secret...)
		from, to := (8*lead+5)/6, 8*len(src)/6
		form("base64", []byte(base64.RawStdEncoding.EncodeToString(src)[from:to]))
		form("base64", []byte(base64.RawURLEncoding.EncodeToString(src)[from:to]))
		clear(src)
	}
}
