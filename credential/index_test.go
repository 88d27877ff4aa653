package credential

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An index that has learned and forgotten much finds what a plain search finds.
func TestIndexAgainstPlainSearch(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	for range max(1, rounds(100)) {
		x := newIndex()
		var known []*pattern
		// Few letters, so that windows are shared and patterns overlap.
		text := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = "ab"[r.IntN(2)]
			}
			return b
		}
		for range 300 {
			if len(known) > 0 && r.IntN(5) < 2 {
				i := r.IntN(len(known))
				old := known[i]
				x.remove(&pattern{bytes: bytes.Clone(old.bytes), ref: old.ref})
				known = append(known[:i], known[i+1:]...)
				continue
			}
			p := &pattern{bytes: text(MinLength + r.IntN(12)), ref: Ref{Name: fmt.Sprint(len(known) % 7), Version: uint64(r.IntN(3))}}
			known = append(known, p)
			x.add(&pattern{bytes: bytes.Clone(p.bytes), ref: p.ref})
		}
		body := text(2000)
		type at struct {
			start, end int
			ref        Ref
		}
		want, got := map[at]bool{}, map[at]bool{}
		longest, partial := 0, len(body)
		for _, p := range known {
			longest = max(longest, len(p.bytes))
			for i := range body {
				if bytes.HasPrefix(body[i:], p.bytes) {
					want[at{i, i + len(p.bytes), p.ref}] = true
				}
				if n := len(body) - i; n < len(p.bytes) && bytes.Equal(p.bytes[:n], body[i:]) {
					partial = min(partial, i)
				}
			}
		}
		for _, s := range x.find(body, direct, nil) {
			got[at{s.start, s.end, s.pattern.ref}] = true
		}
		require.Equal(t, want, got)
		require.Equal(t, longest, x.longest)
		require.Equal(t, partial, x.partial(body))

		for _, p := range known {
			x.remove(&pattern{bytes: p.bytes, ref: p.ref})
		}
		require.Empty(t, x.sorted)
		require.Empty(t, x.long.windows)
		require.Empty(t, x.short.windows)
		require.Empty(t, x.lengths)
		require.Zero(t, x.longest)
	}
}

func TestScrubberRemove(t *testing.T) {
	var s Scrubber
	ref := Ref{"token", 2}
	secret := NewSecret([]byte("token-0123456789"))
	text := []byte("token-0123456789 dG9rZW4tMDEyMzQ1Njc4OQ==")
	require.NoError(t, s.Remove(ref, secret), "it is not known")
	require.NoError(t, s.AddVersion(ref, secret))
	require.NoError(t, s.AddVersion(ref, secret))
	require.NoError(t, s.AddVersion(Ref{"token", 3}, secret))
	want := Found{
		{Ref: ref, Encoding: "raw"}: 1, {Ref: ref, Encoding: "base64"}: 1,
	}
	_, found := s.Redact(text)
	assert.Equal(t, map[string]int{"token": 2}, found.Names(), "versions of one name in one place are one sight")
	require.NoError(t, s.Remove(Ref{"token", 3}, secret))
	require.NoError(t, s.Remove(ref, secret))
	_, found = s.Redact(text)
	assert.Equal(t, want, found, "it was added twice")
	require.NoError(t, s.Remove(ref, secret))
	require.NoError(t, s.Remove(ref, secret))
	assert.Empty(t, s.Count(text))
	assert.Empty(t, s.index.sorted)
	secret.Destroy()
	assert.ErrorIs(t, s.Remove(ref, secret), ErrDestroyed)
}

// Tokens come and go; what is kept does not grow.
func TestScrubberIsBounded(t *testing.T) {
	var s Scrubber
	for i := range 5000 {
		secret := NewSecret(fmt.Appendf(nil, "eyJhbGciOiJSUzI1NiJ9.%d.0123456789abcdef", i))
		require.NoError(t, s.Add("token", secret))
		require.NoError(t, s.Remove(Ref{Name: "token"}, secret))
	}
	assert.Empty(t, s.index.sorted)
	assert.LessOrEqual(t, len(s.index.long.filter.words), 1<<12/64)
	assert.LessOrEqual(t, len(s.index.heads.words), 1<<12/64)
}

// Tokens of one kind begin alike. A text full of their beginning must not be
// compared with each of them.
func TestIndexSharedPrefix(t *testing.T) {
	const prefix = "github_pat_11AAAAAAA0"
	s := new(Scrubber)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 500 {
		require.NoError(t, s.Add(fmt.Sprint(i), NewSecret([]byte(prefix+strings.Repeat("x", i%3)+randomSecret(r, 40)))))
	}
	longest := 0
	for _, tier := range []*tier{&s.index.long, &s.index.short} {
		for _, at := range tier.windows {
			n := 0
			for ; at != nil; at = at.next {
				n++
			}
			longest = max(longest, n)
		}
	}
	assert.LessOrEqual(t, longest, 8, "patterns filed under one window")
}

// Secrets in JSON documents of every shape, among a thousand known ones.
func TestScrubberRandomJSON(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	secrets := make(map[string]string)
	s := new(Scrubber)
	for i := range 1000 {
		name, v := fmt.Sprint(i), randomSecret(r, 16+r.IntN(60))
		secrets[name] = v
		require.NoError(t, s.AddVersion(Ref{name, 7}, NewSecret([]byte(v))))
	}
	for range rounds(5000) {
		planted := make(map[string]int)
		var value func(depth int) any
		value = func(depth int) any {
			switch k := r.IntN(8); {
			case k == 0 && depth < 4:
				m := map[string]any{}
				for i := range r.IntN(4) { // no key twice
					m[fmt.Sprint(i)+randomSecret(r, 1+r.IntN(9))] = value(depth + 1)
				}
				return m
			case k == 1 && depth < 4:
				a := make([]any, r.IntN(4))
				for i := range a {
					a[i] = value(depth + 1)
				}
				return a
			case k == 2:
				return r.Float64()
			case k < 5:
				return randomSecret(r, r.IntN(50))
			}
			name := fmt.Sprint(r.IntN(1000))
			e := encodings[r.IntN(len(encodings))]
			for strings.Contains(e.name, "json") { // Marshal below is the one that escapes
				e = encodings[r.IntN(len(encodings))]
			}
			planted[name]++
			return "\t\n" + e.f(secrets[name]) + "\n\t"
		}
		doc, err := json.Marshal([]any{value(0), value(0), value(0)})
		require.NoError(t, err)
		if r.IntN(3) == 0 { // as a tool returns it, in a text
			doc, err = json.Marshal(map[string]any{"content": string(doc)})
			require.NoError(t, err)
		}
		out, found := s.Redact(doc)
		if len(planted) == 0 {
			require.Empty(t, found)
		} else {
			require.Equal(t, planted, found.Names(), "%q", doc)
		}
		require.True(t, json.Valid(out), "%q", out)
		checkStream(t, s, doc, out, found, r)
	}
}

func BenchmarkScrubberAdd(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("known=%d", n), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			s := new(Scrubber)
			for i := range n {
				_ = s.Add(fmt.Sprint(i), NewSecret([]byte(randomSecret(r, 40))))
			}
			token := NewSecret([]byte(randomSecret(r, 40)))
			for b.Loop() {
				_ = s.Add("token", token)
				_ = s.Remove(Ref{Name: "token"}, token)
			}
		})
	}
}
