package inference

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/oauth"
)

// provider makes one call of backend b, whose key is bound by binding, and
// returns the request that the provider got.
func provider(t *testing.T, b Backend, binding credential.Binding, secret, path, body string) (*http.Request, string) {
	t.Helper()
	vault := credentialtest.NewVault(t, nil, map[string]string{"key": secret})
	require.NoError(t, vault.Bind(t.Context(), "key", binding, operator))
	var got *http.Request
	var sent []byte
	router, err := newRouter(Config{Backends: []Backend{b}}, permits{}, &lastOutcome{}, &Options{
		Vault: vault,
		Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			var err error
			got = r
			sent, err = io.ReadAll(r.Body)
			require.NoError(t, err)
			return says(200, "yes")(r)
		}),
	})
	require.NoError(t, err)
	client := &http.Client{Transport: router.RoundTripper(bot)}
	resp, err := client.Post("http://x"+path, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.NotNil(t, got)
	return got, string(sent)
}

// Bedrock gets requests that are signed, and never the key.
func TestBedrockIsSigned(t *testing.T) {
	b := Backend{Name: "aws", Preset: "bedrock", Auth: credential.TypeSigV4, Vars: map[string]string{"region": "eu-central-1"},
		Credential: "key", Models: []string{"openai.gpt-oss-120b-1:0"}}
	binding, err := b.Binding()
	require.NoError(t, err)
	const key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	req, body := provider(t, b, binding, `{"AccessKeyId":"AKIAIOSFODNN7EXAMPLE","SecretAccessKey":"`+key+`"}`,
		"/v1/chat/completions", `{"model":"openai.gpt-oss-120b-1:0","messages":[]}`)
	assert.Equal(t, "https://bedrock-runtime.eu-central-1.amazonaws.com/openai/v1/chat/completions", req.URL.String())
	auth := req.Header.Get("Authorization")
	assert.True(t, strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/"), auth)
	assert.Contains(t, auth, "/eu-central-1/bedrock/aws4_request")
	assert.Contains(t, auth, "SignedHeaders=content-type;host;x-amz-date")
	assert.JSONEq(t, `{"model":"openai.gpt-oss-120b-1:0","messages":[]}`, body)
	for _, v := range req.Header {
		assert.NotContains(t, strings.Join(v, " "), key)
	}
}

// Vertex gets a token that the key of a service account was traded for, and
// Anthropic's messages in its own form.
func TestVertexGetsAToken(t *testing.T) {
	var asked string
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, r.ParseForm())
		asked = r.PostForm.Get("grant_type")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"ya29.a-token-of-google","token_type":"Bearer","expires_in":3600}`)
	}))
	defer tokens.Close()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	require.NoError(t, err)
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "models@p.iam.gserviceaccount.com", "private_key_id": "k1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	require.NoError(t, err)

	b := Backend{Name: "google", Preset: "vertex-anthropic", Vars: map[string]string{"region": "europe-west1", "project": "p-1"},
		Credential: "key", Models: []string{"claude-sonnet-4-5@20250929"}, Aliases: map[string]string{"claude": "claude-sonnet-4-5@20250929"}}
	spec, err := b.BindingSpec()
	require.NoError(t, err)
	binding, err := oauth.Binding(spec, nil)
	require.NoError(t, err)
	binding.Scheme = oauth.GoogleServiceAccount(&oauth.GoogleOptions{TokenEndpoint: tokens.URL})
	req, body := provider(t, b, binding, string(file), "/v1/messages?beta=true", `{"model":"claude","max_tokens":5,"messages":[]}`)
	assert.Equal(t, "urn:ietf:params:oauth:grant-type:jwt-bearer", asked)
	assert.Equal(t, "Bearer ya29.a-token-of-google", req.Header.Get("Authorization"))
	assert.Equal(t, "https://europe-west1-aiplatform.googleapis.com/v1/projects/p-1/locations/europe-west1/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict", req.URL.String())
	assert.Equal(t, `{"anthropic_version":"vertex-2023-10-16","max_tokens":5,"messages":[]}`, body)
}
