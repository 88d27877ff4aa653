package credential_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

const odd = "se cret&=%+/?;'\"ü#"

func TestHeaderFormat(t *testing.T) {
	got := make(chan string, 1)
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Authorization") })
	l := leaseFor(t, server, "some-secret", credential.HeaderFormat("Authorization", `Token token="{secret}", v=1`))
	resp, err := l.Transport(nil).RoundTrip(httptest.NewRequest("GET", server.URL, nil))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, `Token token="some-secret", v=1`, <-got)
	for _, format := range []string{"", "Token", "{secret}{secret}", "a\n{secret}", "{secret}\x00"} {
		err := credential.HeaderFormat("X-Key", format).Apply(httptest.NewRequest("GET", server.URL, nil), []byte("some-secret"))
		assert.ErrorIs(t, err, credential.ErrScheme, "%q", format)
	}
}

func TestLastResortQuery(t *testing.T) {
	scheme := credential.LastResortQuery("api key")
	for query, want := range map[string]string{
		"":                                "",
		"a=1&b=%2f&a=2":                   "a=1&b=%2f&a=2&",
		"api+key=mine&z=1&api%20key=mine": "z=1&",
		"api+key":                         "",
		"%61pi+%6bey=mine&y":              "y&",
	} {
		r := httptest.NewRequest("GET", "https://a.example/p?"+query, nil)
		require.NoError(t, scheme.Apply(r, []byte(odd)), query)
		assert.Equal(t, want+"api+key="+url.QueryEscape(odd), r.URL.RawQuery)
		assert.Equal(t, []string{odd}, r.URL.Query()["api key"])
	}
	for _, query := range []string{"%zz=1", "a;api+key=1"} {
		r := httptest.NewRequest("GET", "https://a.example/p", nil)
		r.URL.RawQuery = query
		assert.ErrorIs(t, scheme.Apply(r, []byte(odd)), credential.ErrScheme)
	}
}

// The URL with the secret in it comes out neither in an error nor in the
// response's request nor in a redirect.
func TestLastResortQueryIsNotShown(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/next?"+r.URL.RawQuery, http.StatusFound)
	})
	l := leaseFor(t, server, "some-secret-0123", credential.LastResortQuery("key"))
	client := http.Client{Transport: l.Transport(nil), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(server.URL)
	require.NoError(t, err)
	resp.Body.Close()
	assert.NotContains(t, resp.Request.URL.String()+resp.Header.Get("Location"), "some-secret-0123")
	server.Close()
	_, err = client.Get(server.URL)
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "some-secret-0123")
}

func TestForm(t *testing.T) {
	const formType = "application/x-www-form-urlencoded"
	scheme := credential.Form("token")
	type sent struct{ body, kind string }
	got := make(chan sent, 1)
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- sent{string(b), r.Header.Get("Content-Type")}
	})
	l := leaseFor(t, server, odd, scheme)
	for body, want := range map[string]string{
		"":                             "",
		"channel=C1&text=a%20b":        "channel=C1&text=a%20b&",
		"token=mine&text=1&%74oken=me": "text=1&",
	} {
		r, err := http.NewRequest("POST", server.URL, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", formType+"; charset=utf-8")
		resp, err := l.Transport(nil).RoundTrip(r)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, sent{want + "token=" + url.QueryEscape(odd), formType}, <-got)
	}
	for name, r := range map[string]*http.Request{
		"get":     httptest.NewRequest("GET", server.URL, nil),
		"json":    httptest.NewRequest("POST", server.URL, strings.NewReader(`{}`)),
		"large":   httptest.NewRequest("POST", server.URL, bytes.NewReader(make([]byte, 1<<20+1))),
		"garbled": httptest.NewRequest("POST", server.URL, strings.NewReader("%zz=1")),
	} {
		if name != "json" {
			r.Header.Set("Content-Type", formType)
		}
		assert.ErrorIs(t, scheme.Apply(r, []byte(odd)), credential.ErrBody, name)
	}
}
