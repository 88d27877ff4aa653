package credential_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

var goodSpecs = map[string]credential.Scheme{
	`{"origin":"https://a.example","type":"bearer","scopes":["read:x"]}`:                                    credential.Bearer(),
	`{"origin":"https://a.example","type":"header","name":"X-Api-Key"}`:                                     credential.Header("X-Api-Key", ""),
	`{"origin":"https://a.example","type":"header","name":"Authorization","format":"Token token={secret}"}`: credential.HeaderFormat("Authorization", "Token token={secret}"),
	`{"origin":"https://a.example","type":"basic","user":"bot@a.example"}`:                                  credential.Basic("bot@a.example"),
	`{"origin":"https://a.example","type":"query_last_resort","name":"key"}`:                                credential.LastResortQuery("key"),
	`{"origin":"https://a.example","type":"form","name":"token"}`:                                           credential.Form("token"),
	`{"origin":"stdio://files","type":"env","name":"TOKEN"}`:                                                credential.Env("TOKEN"),
	`{"origin":"stdio://files","type":"descriptor","name":"TOKEN_FILE"}`:                                    credential.Descriptor("TOKEN_FILE"),
}

func TestParseBindingSpec(t *testing.T) {
	for text, want := range goodSpecs {
		spec, err := credential.ParseBindingSpec([]byte(text))
		require.NoError(t, err, text)
		b, err := spec.Binding()
		require.NoError(t, err, text)
		assert.Equal(t, want, b.Scheme, text)
		assert.Equal(t, spec.Origin, b.Origin)
		assert.Equal(t, spec.Scopes, b.Scopes)
		again, err := json.Marshal(spec)
		require.NoError(t, err)
		assert.JSONEq(t, text, string(again))
		var fromYAML credential.BindingSpec
		require.NoError(t, yaml.Unmarshal([]byte(text), &fromYAML))
		assert.Equal(t, spec, fromYAML)
	}
	spec, err := credential.ParseBindingSpec([]byte(`{"origin":"https://a.example","type":"oauth_client_credentials","issuer":"https://as.example","client_id":"me"}`))
	require.NoError(t, err)
	_, err = spec.Binding()
	assert.ErrorContains(t, err, "credential/oauth")
}

func TestParseBindingSpecRefuses(t *testing.T) {
	for why, text := range map[string]string{
		"nothing":            ``,
		"not an object":      `[]`,
		"a second value":     `{"origin":"https://a.example","type":"bearer"}{}`,
		"an unknown member":  `{"origin":"https://a.example","type":"bearer","secret":"x"}`,
		"a repeated member":  `{"origin":"https://a.example","type":"bearer","type":"bearer"}`,
		"in another case":    `{"origin":"https://a.example","Type":"bearer"}`,
		"no issuer's client": `{"origin":"https://a.example","type":"oauth_jwt_bearer","issuer":"https://as.example"}`,
		"repeated in case":   `{"origin":"https://a.example","type":"bearer","Type":"bearer"}`,
		"null":               `{"origin":"https://a.example","type":null}`,
		"an unknown type":    `{"origin":"https://a.example","type":"magic"}`,
		"no type":            `{"origin":"https://a.example"}`,
		"no origin":          `{"type":"bearer"}`,
		"http":               `{"origin":"http://a.example","type":"bearer"}`,
		"a path":             `{"origin":"https://a.example/x","type":"bearer"}`,
		"a missing field":    `{"origin":"https://a.example","type":"header"}`,
		"a field too many":   `{"origin":"https://a.example","type":"bearer","user":"x"}`,
		"unsigned bearer":    `{"origin":"https://a.example","type":"bearer","unsigned_payload":true}`,
		"a process bearer":   `{"origin":"stdio://a","type":"bearer"}`,
		"a server's env":     `{"origin":"https://a.example","type":"env","name":"A"}`,
		"a control":          `{"origin":"https://a.example","type":"basic","user":"a\n"}`,
		"a scope with space": `{"origin":"https://a.example","type":"bearer","scopes":["a b"]}`,
		"too many scopes":    `{"origin":"https://a.example","type":"bearer","scopes":["a"` + strings.Repeat(`,"a"`, 64) + `]}`,
		"a long field":       `{"origin":"https://a.example","type":"basic","user":"` + strings.Repeat("a", 1025) + `"}`,
		"too long":           `{"origin":"https://a.example","type":"bearer"}` + strings.Repeat(" ", 16<<10),
		"not UTF-8":          "{\"origin\":\"https://a.example\",\"type\":\"basic\",\"user\":\"\xff\"}",
	} {
		_, err := credential.ParseBindingSpec([]byte(text))
		assert.ErrorIs(t, err, credential.ErrSpec, why)
	}
	_, err := credential.BindingSpec{Origin: "https://a.example", Type: "header", Name: "A", Format: "{secret}{secret}"}.Binding()
	assert.ErrorIs(t, err, credential.ErrSpec)
}

func ExampleParseBindingSpec() {
	spec, err := credential.ParseBindingSpec([]byte(`{
		"origin": "https://api.pagerduty.com", "type": "header",
		"name": "Authorization", "format": "Token token={secret}"
	}`))
	fmt.Println(spec.Type, spec.Name, err)
	_, err = credential.ParseBindingSpec([]byte(`{"origin": "https://api.example", "type": "header"}`))
	fmt.Println(err)
	// Output:
	// header Authorization <nil>
	// credential: the binding is not well formed: type header needs name
}

// Whatever is accepted can be written and read again, and makes a binding or
// says why not.
func FuzzParseBindingSpec(f *testing.F) {
	for text := range goodSpecs {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"origin":"https://s3.example","type":"aws_sigv4","region":"r","service":"s3","unsigned_payload":true}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := credential.ParseBindingSpec(data)
		if err != nil {
			assert.ErrorIs(t, err, credential.ErrSpec)
			return
		}
		again, err := json.Marshal(spec)
		require.NoError(t, err)
		twin, err := credential.ParseBindingSpec(again)
		require.NoError(t, err)
		require.Equal(t, spec, twin)
		if b, err := spec.Binding(); err == nil {
			require.NotNil(t, b.Scheme)
		} else {
			require.ErrorIs(t, err, credential.ErrSpec)
		}
	})
}
