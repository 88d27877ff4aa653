package audit

import (
	"strings"
	"testing"
)

// Whatever is given as a witness's key or answer is refused or has one meaning.
func FuzzCosignature(f *testing.F) {
	const vkey = "witness.example/w1+7e136b5c+BAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	const note = "log.example\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nbatch 1\n\n— log.example Az3grlgtzPICa5OS\n"
	f.Add(vkey, note)
	f.Add(vkey, note+"— witness.example/w1 8fi0vAAAAABkGFDL\n")
	f.Add("a+00000000+BA==", "\n\n")
	f.Add("++", "")
	f.Fuzz(func(t *testing.T, vkey, text string) {
		c, err := newCosigner(vkey)
		if err != nil {
			return
		}
		if c.vkey != vkey || !strings.HasPrefix(vkey, c.name+"+") {
			t.Fatalf("%q is read as %q", vkey, c.vkey)
		}
		if _, line, err := c.open([]byte(text)); err == nil && !strings.Contains(text, line) {
			t.Fatalf("a signature that is not there: %q", line)
		}
	})
}
