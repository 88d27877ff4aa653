package credential_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

const awsKey = `{"Version":1,"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"wJalrXUtnFEMI\/K7MDENG+bPxRfiCYEXAMPLEKEY","SessionToken":"a session token","Expiration":"2026-11-28T20:00:00Z"}`

func sigV4(service string, o credential.SigV4Options) credential.Scheme {
	o.Now = func() time.Time { return time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC) }
	return credential.SigV4("us-east-1", service, &o)
}

// AWS's own example (get-vanilla of its test suite). The comparison with AWS's
// signer is in internal/awsoracle.
func TestSigV4(t *testing.T) {
	r := httptest.NewRequest("GET", "https://example.amazonaws.com/", nil)
	key := `{"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}`
	require.NoError(t, sigV4("service", credential.SigV4Options{}).Apply(r, []byte(key)))
	assert.Equal(t, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, "+
		"Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", r.Header.Get("Authorization"))
}

func TestSigV4Bodies(t *testing.T) {
	const hash = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9" // of hello world
	for name, r := range map[string]*http.Request{
		"read twice":     must(http.NewRequest("PUT", "https://a.example/k", strings.NewReader("hello world"))),
		"held in memory": must(http.NewRequest("PUT", "https://a.example/k", io.MultiReader(strings.NewReader("hello world")))),
		"a client's own": func() *http.Request {
			r := must(http.NewRequest("PUT", "https://a.example/k", strings.NewReader("hello world")))
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
			r.Header.Set("X-Amz-Security-Token", "somebody else's")
			for _, name := range []string{"x-amz-content-sha256", "x-amz-security-token", "x-amz-date"} {
				r.Header[name] = []string{"somebody else's"}
			}
			return r
		}(),
	} {
		require.NoError(t, sigV4("s3", credential.SigV4Options{}).Apply(r, []byte(awsKey)), name)
		assert.Equal(t, hash, r.Header.Get("X-Amz-Content-Sha256"), name)
		assert.Equal(t, "a session token", r.Header.Get("X-Amz-Security-Token"), name)
		assert.NotContains(t, fmt.Sprint(r.Header), "somebody else", name)
		sent, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		assert.Equal(t, "hello world", string(sent), name)
	}
	r := must(http.NewRequest("POST", "https://a.example/", strings.NewReader("hello world")))
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	require.NoError(t, sigV4("dynamodb", credential.SigV4Options{}).Apply(r, []byte(awsKey)))
	assert.Empty(t, r.Header.Get("X-Amz-Content-Sha256"), "what a client says does not count")
	large := must(http.NewRequest("PUT", "https://a.example/k", io.MultiReader(bytes.NewReader(make([]byte, 16<<20+1)))))
	assert.ErrorIs(t, sigV4("s3", credential.SigV4Options{}).Apply(large, []byte(awsKey)), credential.ErrBody)
	require.NoError(t, sigV4("s3", credential.SigV4Options{UnsignedPayload: true}).Apply(large, []byte(awsKey)))
	assert.Equal(t, "UNSIGNED-PAYLOAD", large.Header.Get("X-Amz-Content-Sha256"))
}

func TestSigV4Refuses(t *testing.T) {
	scheme := sigV4("s3", credential.SigV4Options{})
	for _, key := range []string{"", "AKID:secret", `{}`, `{"AccessKeyId":"A"}`, `{"AccessKeyId":"A\n","SecretAccessKey":"0123456789"}`, `{"AccessKeyId":"A","SecretAccessKey":"0123456789","x":1}`} {
		r := httptest.NewRequest("GET", "https://a.example/", nil)
		assert.ErrorIs(t, scheme.Apply(r, []byte(key)), credential.ErrScheme, key)
		assert.Empty(t, r.Header)
	}
	for _, query := range []string{"X-Amz-Signature=1", "x-amz-credential=1", "%zz", "a;b"} {
		r := httptest.NewRequest("GET", "https://a.example/", nil)
		r.URL.RawQuery = query
		assert.ErrorIs(t, scheme.Apply(r, []byte(awsKey)), credential.ErrScheme, query)
	}
	assert.ErrorIs(t, credential.SigV4("", "s3", nil).Apply(httptest.NewRequest("GET", "https://a.example/", nil), []byte(awsKey)), credential.ErrScheme)
}

// The key inside the document that is the secret never comes back.
func TestSigV4PartsAreFound(t *testing.T) {
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	v := newVault(t, server, sigV4("s3", credential.SigV4Options{}))
	_, err := v.Rotate(t.Context(), "k", secret(awsKey), by)
	require.NoError(t, err)
	_, err = v.lease(server, actor)
	require.NoError(t, err)
	for _, part := range []string{"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "a session token"} {
		assert.NotEmpty(t, v.Scrubber().Count([]byte("x "+part)), part)
	}
	l := leaseFor(t, server, awsKey, sigV4("s3", credential.SigV4Options{}))
	assert.NotEmpty(t, l.Scrubber().Count([]byte("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")))
}

func must(r *http.Request, err error) *http.Request {
	if err != nil {
		panic(err)
	}
	return r
}
