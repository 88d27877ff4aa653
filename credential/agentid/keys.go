package agentid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

const (
	maxKeySet = 64 << 10 // bytes of a JWK Set
	maxKeys   = 32       // in it
)

// algorithms are those that signatures may have: public-key ones only, so that
// no public key can be taken for a shared secret, and "none" is none of them.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256, jose.PS256}

// parsePublicKeys reads a JWK Set. Empty is none.
func parsePublicKeys(set []byte) ([]jose.JSONWebKey, error) {
	switch {
	case len(set) == 0:
		return nil, nil
	case len(set) > maxKeySet:
		return nil, fmt.Errorf("a key set of %d bytes, at most %d", len(set), maxKeySet)
	}
	// Strict: no name twice, no trailing data, no invalid UTF-8.
	var raw struct {
		Keys []jsonObject `json:"keys"`
	}
	if err := json.Unmarshal(set, &raw); err != nil {
		return nil, errors.New("not a JWK Set")
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, at most %d", len(raw.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	seen := map[string]bool{}
	for i, b := range raw.Keys {
		k, err := parsePublicKey(b, "")
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if seen[k.KeyID] {
			return nil, fmt.Errorf("key %d: its kid is that of an earlier key", i)
		}
		seen[k.KeyID] = true
		keys = append(keys, k)
	}
	return keys, nil
}

var errKey = errors.New("not a public signature key: P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits")

// parsePublicKey reads a JWK whose use is sig, not said, or the one that is given.
func parsePublicKey(b []byte, use string) (jose.JSONWebKey, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(b); err != nil || !k.IsPublic() || !k.Valid() || k.Use != "" && k.Use != "sig" && k.Use != use || len(keyAlgorithms(k)) == 0 {
		return jose.JSONWebKey{}, errKey
	}
	return k, nil
}

// keyAlgorithms returns the algorithms that a key is for: those of its type, or
// the one of these that it names.
func keyAlgorithms(k jose.JSONWebKey) []jose.SignatureAlgorithm {
	var of []jose.SignatureAlgorithm
	switch key := k.Key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			of = []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			of = []jose.SignatureAlgorithm{jose.ES384}
		}
	case ed25519.PublicKey:
		of = []jose.SignatureAlgorithm{jose.EdDSA}
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n >= 2048 && n <= 8192 {
			of = []jose.SignatureAlgorithm{jose.RS256, jose.PS256}
		}
	}
	if k.Algorithm == "" {
		return of
	}
	for _, a := range of {
		if string(a) == k.Algorithm {
			return []jose.SignatureAlgorithm{a}
		}
	}
	return nil
}

// thumbprint is the RFC 7638 name of a key, in base64url.
func thumbprint(k jose.JSONWebKey) string {
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return "" // parsePublicKey lets no such key through
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

func thumbprints(set []byte) []string {
	keys, _ := parsePublicKeys(set)
	var all []string
	for _, k := range keys {
		all = append(all, thumbprint(k))
	}
	return all
}

// jsonObject is the raw text of an object.
type jsonObject []byte

func (o *jsonObject) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '{' {
		return errKey
	}
	*o = append((*o)[:0], b...)
	return nil
}
