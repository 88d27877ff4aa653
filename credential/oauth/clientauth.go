package oauth

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/twinward-dev/twinward/credential"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionLife is how long what the client signs is good for.
	assertionLife = time.Minute
)

func (c Client) method() AuthMethod { return cmp.Or(c.Auth, SecretBasic) }

// authenticate makes a token request that says who the client is.
func (c *server) authenticate(ctx context.Context, x credential.Exchange, endpoint string, form url.Values) (*http.Request, error) {
	var basic string
	password := func(use func(b []byte)) error {
		return x.Secret.Use(func(b []byte) error {
			if isKey(b) {
				return fmt.Errorf("%w: %s would send a private key: say how the client authenticates with it", errConfig, c.method())
			}
			use(b)
			return nil
		})
	}
	err := func() error {
		switch method := c.method(); method {
		case None:
			form.Set("client_id", c.ID)
			return nil
		case TLSClientAuth:
			form.Set("client_id", c.ID)
			return nil
		case SecretBasic:
			return password(func(b []byte) { basic = url.QueryEscape(string(b)) }) // RFC 6749, 2.3.1
		case SecretPost:
			form.Set("client_id", c.ID)
			return password(func(b []byte) { form.Set("client_secret", string(b)) })
		case PrivateKeyJWT:
			jwt, err := sign(x, c.KeyID, map[string]any{
				"iss": c.ID, "sub": c.ID, "aud": cmp.Or(c.Audience, c.Issuer), "jti": rand.Text(),
				"iat": x.Now.Unix(), "nbf": x.Now.Unix(), "exp": x.Now.Add(assertionLife).Unix(),
			})
			if err != nil {
				return err
			}
			form.Set("client_id", c.ID)
			form.Set("client_assertion_type", assertionType)
			form.Set("client_assertion", jwt)
			return nil
		default:
			return fmt.Errorf("%w: %q is no way to authenticate", errConfig, method)
		}
	}()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%w: the token endpoint is no URL", errConfig)
	}
	req.GetBody = nil // a request is made once
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic != "" {
		req.SetBasicAuth(url.QueryEscape(c.ID), basic)
	}
	return req, nil
}

// sign signs claims with the private key that is the secret, and makes the
// result known as a secret.
func sign(x credential.Exchange, keyID string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("oauth: claims: %w", err)
	}
	var jwt string
	err = x.Secret.Use(func(b []byte) error {
		key, err := parseKey(b, keyID)
		if err != nil {
			return err
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
		if err != nil {
			return errKey
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			return errKey
		}
		jwt, err = signed.CompactSerialize()
		return err
	})
	if err != nil {
		return "", err
	}
	x.Learn(credential.NewSecret([]byte(jwt)))
	return jwt, nil
}

// errKey does not wrap what a parser says, which may quote the key.
var errKey = fmt.Errorf("%w: it is no private key of a kind that signs (PEM or JWK; P-256, RSA of 2048 bits and more, Ed25519)", credential.ErrScheme)

// parseKey reads a private key and decides how it signs.
func parseKey(b []byte, keyID string) (jose.JSONWebKey, error) {
	b = bytes.TrimSpace(b)
	var key jose.JSONWebKey
	if bytes.HasPrefix(b, []byte("{")) {
		if key.UnmarshalJSON(b) != nil || !key.Valid() || key.IsPublic() {
			return key, errKey
		}
	} else {
		block, _ := pem.Decode(b)
		if block == nil {
			return key, errKey
		}
		defer clear(block.Bytes)
		k, err := parseDER(block)
		if err != nil {
			return key, errKey
		}
		key.Key = k
	}
	key.KeyID = cmp.Or(key.KeyID, keyID)
	alg := ""
	switch k := key.Key.(type) {
	case *ecdsa.PrivateKey:
		alg = map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case *rsa.PrivateKey:
		if k.N.BitLen() >= 2048 {
			alg = "RS256"
		}
	case ed25519.PrivateKey:
		alg = "EdDSA"
	}
	if alg == "" {
		return key, errKey
	}
	if key.Algorithm == "" || alg != "RS256" || key.Algorithm != "PS256" {
		key.Algorithm = alg
	}
	return key, nil
}

// isKey reports whether a secret is a private key, or has one in it: it signs, and
// goes to nobody.
func isKey(b []byte) bool {
	_, err := parseKey(b, "")
	return err == nil || bytes.Contains(b, []byte("PRIVATE KEY-----"))
}

func parseDER(block *pem.Block) (crypto.PrivateKey, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}

// withCertificate makes a client show the certificate that is the secret. The
// function that it returns ends the connections.
func withCertificate(h *http.Client, secret credential.Secret) (done func(), err error) {
	base := http.RoundTripper(h.Transport)
	if base == nil {
		base = http.DefaultTransport
	}
	t, ok := base.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("%w: %s needs a client whose transport is an *http.Transport", errConfig, TLSClientAuth)
	}
	var cert tls.Certificate
	err = secret.Use(func(b []byte) (err error) {
		if cert, err = tls.X509KeyPair(b, b); err != nil {
			err = fmt.Errorf("%w: it is no certificate with its private key, in PEM", credential.ErrScheme)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	t = t.Clone()
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.Certificates = []tls.Certificate{cert}
	h.Transport = t
	return t.CloseIdleConnections, nil
}
