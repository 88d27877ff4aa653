package oauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/oauth"
)

// Each type of a binding makes its scheme, by way of a call.
func TestBinding(t *testing.T) {
	as := newConsentServer(t)
	rest := as.token
	as.token = func(w http.ResponseWriter, r *http.Request) {
		switch r.PostForm.Get("grant_type") {
		case "client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer":
			answer(w, 200, bearer("access-token-1"))
		case "urn:ietf:params:oauth:grant-type:token-exchange":
			a := bearer("exchanged-token-1")
			a["issued_token_type"] = r.PostForm.Get("requested_token_type")
			answer(w, 200, a)
		default:
			rest(w, r)
		}
	}
	key := pemOf(t, keys(t)[0].private)
	tokens := &oauth.Tokens{User: fixed("user-token-"), Agent: fixed("agent-token-"), ID: fixed("id-token-")}
	for kind, c := range map[string]struct {
		spec   credential.BindingSpec
		secret string
	}{
		credential.TypeBearer:                 {secret: "some secret"},
		credential.TypeOAuthClientCredentials: {credential.BindingSpec{Issuer: as.URL, ClientID: "me"}, "some secret"},
		credential.TypeOAuthTokenExchange:     {credential.BindingSpec{Issuer: as.URL, ClientID: "me", Auth: "private_key_jwt"}, key},
		credential.TypeOAuthJWTBearer:         {credential.BindingSpec{Issuer: as.URL, ClientID: "me", Auth: "none"}, key},
		credential.TypeOAuthIDJAG:             {credential.BindingSpec{Issuer: as.URL, ClientID: "me", IdentityProvider: as.URL}, "some secret"},
		credential.TypeOAuthRefreshToken:      {credential.BindingSpec{Issuer: as.URL, ClientID: "me"}, "some secret"},
		credential.TypeOAuthAuthorizationCode: {credential.BindingSpec{Issuer: as.URL, ClientID: "me"}, "some secret"},
		credential.TypeGitHubApp:              {credential.BindingSpec{AppID: "1", InstallationID: "2"}, key},
		credential.TypeGoogleServiceAccount:   {credential.BindingSpec{User: "a@example.com"}, "{}........"},
	} {
		r := newRig(t, c.secret, credential.Bearer())
		c.spec.Type, c.spec.Origin = kind, r.resource.URL
		b, err := oauth.Binding(c.spec, tokens)
		require.NoError(t, err, kind)
		if kind == credential.TypeGitHubApp || kind == credential.TypeGoogleServiceAccount {
			assert.Implements(t, (*credential.Exchanger)(nil), b.Scheme)
			continue // they speak to GitHub and Google
		}
		require.NoError(t, r.Bind(t.Context(), "k", b, by))
		_, err = r.call(alice)
		switch kind {
		case credential.TypeOAuthRefreshToken, credential.TypeOAuthAuthorizationCode:
			assert.ErrorIs(t, err, credential.ErrNoGrant, kind)
		default:
			assert.NoError(t, err, kind)
		}
	}
	for _, bad := range []credential.BindingSpec{
		{},
		{Type: credential.TypeOAuthClientCredentials, ClientID: "me"},
		{Type: credential.TypeOAuthClientCredentials, ClientID: "me", Issuer: "http://as.example"},
		{Type: credential.TypeOAuthClientCredentials, ClientID: "me", Issuer: as.URL, Auth: "magic"},
		{Type: credential.TypeOAuthJWTBearer, Issuer: as.URL},
	} {
		bad.Origin = "https://a.example"
		_, err := oauth.Binding(bad, nil)
		assert.ErrorIs(t, err, credential.ErrSpec, "%+v", bad)
	}
}

// A client that shows a certificate (RFC 8705): the server sees that very one,
// at the endpoint that it has for such clients.
func TestClientCredentialsWithCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "me"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + pemOf(t, key)

	asked := 0
	mtls := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if assert.Len(t, r.TLS.PeerCertificates, 1) {
			assert.Equal(t, der, r.TLS.PeerCertificates[0].Raw)
		}
		assert.Equal(t, "me", r.FormValue("client_id"))
		assert.Empty(t, r.Header.Get("Authorization"))
		answer(w, 200, bearer("access-token-1"))
	}))
	mtls.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	mtls.StartTLS()
	defer mtls.Close()
	as := newServer(t)
	as.metadata = func(m map[string]any) {
		m["mtls_endpoint_aliases"] = map[string]any{"token_endpoint": mtls.URL + "/token"}
	}

	r := newRig(t, secret, credential.Bearer())
	v, err := credential.NewBroker(r.store, audittest.NewLog(t), &credential.BrokerOptions{Client: mtls.Client()})
	require.NoError(t, err)
	defer v.Close()
	r.Broker = v
	c := oauth.Client{Issuer: as.URL, ID: "me", Auth: oauth.TLSClientAuth}
	require.NoError(t, v.Bind(t.Context(), "k", credential.Binding{Origin: r.resource.URL, Scheme: oauth.ClientCredentials(c)}, by))
	got, err := r.call(actor)
	require.NoError(t, err)
	assert.Equal(t, "Bearer access-token-1", got)
	assert.Equal(t, 1, asked)
	r = newRig(t, "no certificate at all", oauth.ClientCredentials(c))
	_, err = r.call(actor)
	assert.ErrorIs(t, err, credential.ErrScheme)
	r.noLeak(err)
}
