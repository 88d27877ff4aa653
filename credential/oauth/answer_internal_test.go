package oauth

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever a token endpoint answers: a token that can stand in a header and
// lives for a sensible time, or an error that quotes nothing.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"access-token-1","token_type":"bearer","expires_in":60,"scope":"a b","refresh_token":"r"}`,
		`{"access_token":"a","access_token":"b"}`, `{"ACCESS_TOKEN":"a"}`, `{"access_token":"\u0000"}`, `{"expires_in":1e999}`, `[]`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := object(body)
		if err != nil {
			require.ErrorIs(t, err, ErrResponse)
			return
		}
		var again map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(body, &again), "what we read, encoding/json reads")
		require.Len(t, m, len(again))
		a, err := m.answer()
		if err != nil {
			require.ErrorIs(t, err, ErrResponse)
			return
		}
		require.NoError(t, a.access.Use(func(b []byte) error {
			for _, c := range b {
				assert.True(t, c >= ' ' && c <= '~')
			}
			var want string
			assert.NoError(t, json.Unmarshal(again["access_token"], &want))
			assert.Equal(t, want, string(b))
			return nil
		}))
		assert.LessOrEqual(t, a.life, maxLife)
	})
}

// Nor does a key that cannot be used: its error is always the same.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte(`{"kty":"oct","k":"c2VjcmV0"}`))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := parseKey(b, "k")
		if err != nil {
			require.Equal(t, errKey, err)
			return
		}
		require.Contains(t, []string{"ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA"}, key.Algorithm)
	})
}
