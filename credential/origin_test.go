package credential

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOrigin(t *testing.T) {
	for in, want := range map[string]string{
		"https://api.github.com":                  "https://api.github.com",
		"HTTPS://API.GitHub.com:443/a/b?c=d#e":    "https://api.github.com",
		"https://api.github.com:8443/mcp":         "https://api.github.com:8443",
		"https://api.github.com:08443":            "https://api.github.com:8443",
		"http://127.0.0.1:8080/mcp":               "http://127.0.0.1:8080",
		"http://127.9.9.9":                        "http://127.9.9.9",
		"http://127.0.0.1:80":                     "http://127.0.0.1",
		"http://[::1]:8080":                       "http://[::1]:8080",
		"http://[0:0:0:0:0:0:0:1]":                "http://[::1]",
		"http://[::ffff:127.0.0.1]":               "http://127.0.0.1",
		"https://[2001:DB8::1]":                   "https://[2001:db8::1]",
		"https://xn--bcher-kva.example":           "https://xn--bcher-kva.example",
		"https://tools.local/mcp":                 "https://tools.local",
		"https://a.example/" + "?q=user@other:pw": "https://a.example",
	} {
		got, err := Origin(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got, in)
		again, err := Origin(got)
		require.NoError(t, err)
		assert.Equal(t, got, again, "canonical is canonical")
	}
}

func TestOriginRefuses(t *testing.T) {
	for _, in := range []string{
		"", "github.com", "//github.com", "https:", "https://", "https:///path", "https:github.com",
		"http://github.com", "http://localhost:8080", "http://10.0.0.1", "http://[fe80::1%25eth0]", "https://[::1%25lo]",
		"http://0.0.0.0", "http://127.0.0.1.evil.example", "http://0x7f.1", "http://127.1", "http://2130706433",
		"https://user@github.com", "https://user:pw@github.com", "https://github.com@evil.example",
		"https://github.com.", "https://github.com:", "https://github.com:0", "https://github.com:65536", "https://github.com:x",
		"https://bücher.example", "https://git hub.com", "https://github.com%2eevil.example", "https://github.com\\@evil.example", "https://github.com%00",
		"ftp://github.com", "file:///etc/passwd", "javascript:alert(1)", "ws://127.0.0.1",
		"https://" + strings.Repeat("a", 254),
	} {
		got, err := Origin(in)
		assert.ErrorIs(t, err, ErrOrigin, "%q gave %q", in, got)
		assert.Empty(t, got)
	}
	for _, in := range []string{"https://github.com/", "https://github.com/x", "https://github.com?", "https://github.com?a", "https://github.com#", "https://github.com#a", ""} {
		_, err := bareOrigin(in)
		assert.ErrorIs(t, err, ErrOrigin, in)
	}
}

func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{"https://a.example:443/x?y#z", "http://[::1]:8080", "https://u@h", "http://127.0.0.1.nip"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Origin(in)
		if err != nil {
			require.ErrorIs(t, err, ErrOrigin)
			return
		}
		again, err := bareOrigin(got)
		require.NoError(t, err)
		require.Equal(t, got, again)
		u, err := url.Parse(got)
		require.NoError(t, err)
		require.Nil(t, u.User)
		require.Empty(t, u.Path)
	})
}
