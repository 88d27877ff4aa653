package outside

import (
	"crypto/rand"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The search finds what is there, and what is not it does not find.
func TestSearchMemory(t *testing.T) {
	here := []byte(rand.Text())
	kept := make([]byte, 3<<20)
	copy(kept[1<<20-10:], here) // across the edge of a block
	n, read, err := SearchMemory(os.Getpid(), []string{string(here)})
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Greater(t, read, int64(len(kept)))
}

// Packets are read for where they go and what they ask.
func TestTake(t *testing.T) {
	taker := taker{to: map[string]bool{}, asked: map[string]bool{}, seen: map[string]bool{}, secrets: []string{"a-secret-token"}}
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 53}
	dns := append(append([]byte{}, ip...), 0x9c, 0x40, 0, 53, 0, 0, 0, 0)
	dns = append(dns, make([]byte, 12)...)
	dns = append(dns, "\x07example\x03com\x00a-secret-token"...)
	taker.take(dns)
	ip[9] = 6
	taker.take(append(append([]byte{}, ip...), 0x9c, 0x40, 1, 187, 0, 0, 0, 0))
	taker.take(append(append([]byte{}, ip...), 1, 187, 0x9c, 0x40, 0, 0, 0, 0))
	v6 := make([]byte, 48)
	v6[0], v6[6], v6[39], v6[41], v6[43] = 0x60, 6, 1, 90, 80
	taker.take(v6)
	taker.take([]byte{1, 2, 3})
	got := taker.end()
	assert.Equal(t, 5, got.Packets)
	assert.Equal(t, []string{"other", "tcp 127.0.0.53:443", "tcp [::1]:80", "udp 127.0.0.53:53"}, got.To)
	assert.Equal(t, []string{"example.com"}, got.Asked)
	assert.Equal(t, 1, got.Secrets)
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07example\x03com\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		assert.LessOrEqual(t, len(question(p)), len(p))
		taker := taker{to: map[string]bool{}, asked: map[string]bool{}, seen: map[string]bool{}}
		taker.take(p)
	})
}
