package mcpx

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

func testSealer(t testing.TB, key credential.Secret) (*sealer, *time.Time) {
	s, err := newSealer(key)
	require.NoError(t, err)
	now := time.UnixMilli(1_800_000_000_000)
	s.now = func() time.Time { return now }
	return s, &now
}

var sealedFor = binding{"input", "alice's bot", "tools/call", "github__merge", digestOf([]byte(`{"n":1}`))}

// S4: state is good for one principal, method, name and arguments, for a time,
// and not after a bit was flipped.
func TestSeal(t *testing.T) {
	s, now := testSealer(t, credential.Secret{})
	state := []byte("what the gateway remembers")
	text := s.seal(sealedFor, now.Add(time.Minute), state)
	assert.NotEqual(t, text, s.seal(sealedFor, now.Add(time.Minute), state))
	got, err := s.open(sealedFor, text)
	require.NoError(t, err)
	assert.Equal(t, state, got)

	for name, change := range map[string]func(*binding){
		"principal": func(b *binding) { b.owner = "bob's bot" },
		"method":    func(b *binding) { b.method = "prompts/get" },
		"tool":      func(b *binding) { b.name = "github__delete" },
		"arguments": func(b *binding) { b.digest = digestOf([]byte(`{"n":2}`)) },
		"use":       func(b *binding) { b.use = "cursor" },
		"cut":       func(b *binding) { b.owner, b.method = b.owner+b.method[:1], b.method[1:] },
	} {
		other := sealedFor
		change(&other)
		_, err := s.open(other, text)
		assert.ErrorIs(t, err, errSeal, name)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	require.NoError(t, err)
	for i := range raw {
		flipped := bytes.Clone(raw)
		flipped[i] ^= 1
		_, err := s.open(sealedFor, base64.RawURLEncoding.EncodeToString(flipped))
		require.ErrorIs(t, err, errSeal, "byte %d", i)
		_, err = s.open(sealedFor, base64.RawURLEncoding.EncodeToString(raw[:i]))
		require.ErrorIs(t, err, errSeal, "cut at %d", i)
	}
	for _, bad := range []string{"", "?", text + "=", text + "A", text + "\n", strings.Repeat("A", maxSealed+1)} {
		_, err := s.open(sealedFor, bad)
		assert.ErrorIs(t, err, errSeal)
	}
	*now = now.Add(time.Minute)
	_, err = s.open(sealedFor, text)
	assert.ErrorIs(t, err, errSealExpired)
}

func TestSealKeys(t *testing.T) {
	key := func(b byte) credential.Secret { return credential.NewSecret(bytes.Repeat([]byte{b}, minStateKey)) }
	a, now := testSealer(t, key(1))
	text := a.seal(sealedFor, now.Add(time.Minute), nil)
	same, _ := testSealer(t, key(1))
	_, err := same.open(sealedFor, text)
	assert.NoError(t, err, "another host with the same key")
	for _, other := range []credential.Secret{key(2), {}} {
		s, _ := testSealer(t, other)
		_, err := s.open(sealedFor, text)
		assert.ErrorIs(t, err, errSeal)
	}
	_, err = newSealer(credential.NewSecret([]byte("short")))
	assert.ErrorContains(t, err, "StateKey has 5 bytes")
}

// FuzzSeal opens nothing that was not sealed for it.
func FuzzSeal(f *testing.F) {
	s, now := testSealer(f, credential.Secret{})
	made := map[string]bool{}
	for _, state := range []string{"", "x", strings.Repeat("long ", 100)} {
		text := s.seal(sealedFor, now.Add(time.Minute), []byte(state))
		made[text] = true
		f.Add(text, "alice's bot")
		f.Add(text, "bob's bot")
	}
	f.Add("", "")
	f.Fuzz(func(t *testing.T, text, owner string) {
		b := sealedFor
		b.owner = owner
		got, err := s.open(b, text)
		if err == nil && (!made[text] || owner != sealedFor.owner) {
			t.Fatalf("opened %q for %q: %q", text, owner, got)
		}
		again := s.seal(b, now.Add(time.Minute), []byte(text))
		got, err = s.open(b, again)
		if len(again) <= maxSealed && (err != nil || string(got) != text) {
			t.Fatalf("cannot open what was sealed: %v", err)
		}
	})
}

func TestStateKeyThatIsTooShort(t *testing.T) {
	g := NewGateway(nil, nil, &GatewayOptions{StateKey: credential.NewSecret([]byte("short"))})
	assert.Error(t, g.gov.broken)
	engine := governance.NewEngine(audittest.NewLog(t), nil)
	g = NewGateway(engine, audittest.NewLog(t), &GatewayOptions{StateKey: credential.NewSecret([]byte("short"))})
	assert.ErrorContains(t, g.AddUpstream(t.Context(), InMemory("x", nil)), "StateKey")
}
