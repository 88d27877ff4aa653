package argument

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestHostLabelsAreBounded holds RFC 1035's limits of labels and names.
func TestHostLabelsAreBounded(t *testing.T) {
	label := strings.Repeat("a", 63)
	assert.True(t, hostName(label+".example.com"))
	assert.False(t, hostName(label+"a.example.com"))
	assert.False(t, hostName("a..example.com"))
	assert.False(t, hostName("-a.example.com"))
	assert.False(t, hostName(strings.Repeat("abc.", 63)+"ab"), "254 bytes")
	assert.True(t, hostName(strings.Repeat("abc.", 63)+"a"), "253 bytes")
}

func TestDerivedNamesAreBounded(t *testing.T) {
	of := func(n int) error {
		_, err := (&Typer{}).Derive(map[string]DerivedFrom{strings.Repeat("a", n): {Facet: "none"}})
		return err
	}
	assert.ErrorContains(t, of(64), "says facet")
	assert.ErrorContains(t, of(65), "has the name")
}
