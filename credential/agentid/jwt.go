package agentid

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxToken bounds a token, in bytes.
	maxToken = 16 << 10
	// skew is how far the clocks of two machines may be apart.
	skew = 30 * time.Second
	// maxAudiences bounds the audiences of one token, and maxActs the agents that
	// a user's authority came through.
	maxAudiences, maxActs = 16, 4
)

// A jwt is a signed token that was taken apart but whose signature has not been
// looked at. Nothing in it is true yet.
type jwt struct {
	compact string
	header  jwtHeader
	claims  claims
	payload []byte
}

// A jwtHeader is what is read of a JOSE header. Where a token would have its key
// from (jku, x5u, x5c) is not read at all.
type jwtHeader struct {
	Algorithm string         `json:"alg"`
	KeyID     string         `json:"kid"`
	Type      string         `json:"typ"`
	JWK       jsontext.Value `json:"jwk"` // of a DPoP proof
	Critical  jsontext.Value `json:"crit"`
	Base64    jsontext.Value `json:"b64"`
	Zip       jsontext.Value `json:"zip"`
}

// claims are those of RFC 7519, 8693, 8705, 9068 and 9449 that are read.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	Expires   *date    `json:"exp"`
	NotBefore *date    `json:"nbf"`
	IssuedAt  *date    `json:"iat"`
	ID        string   `json:"jti"`
	ClientID  string   `json:"client_id"`
	Party     string   `json:"azp"`
	Act       *act     `json:"act"`
	MayAct    *act     `json:"may_act"`
	Confirm   *confirm `json:"cnf"`

	// Of a DPoP proof.
	Method     string `json:"htm"`
	URL        string `json:"htu"`
	AccessHash string `json:"ath"`

	// Of this registry's own tokens.
	Grant *ownGrant `json:"dev.twinward/grant"`
}

// An act is who acts for the subject, and through whom it came to (RFC 8693, 4.1).
type act struct {
	Subject string `json:"sub"`
	Issuer  string `json:"iss,omitzero"`
	Act     *act   `json:"act,omitzero"`
}

type confirm struct {
	KeyID string `json:"jkt,omitzero"`
	Cert  string `json:"x5t#S256,omitzero"`
	// Other ways to be bound are not understood, so that such a token is refused.
	JWK jsontext.Value `json:"jwk,omitzero"`
	JWE jsontext.Value `json:"jwe,omitzero"`
	KID jsontext.Value `json:"kid,omitzero"`
	JKU jsontext.Value `json:"jku,omitzero"`
}

// An audience is one string or several.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		err := json.Unmarshal(b, &one)
		*a = audience{one}
		return err
	}
	var all []string
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	if len(all) > maxAudiences {
		return errors.New("too many audiences")
	}
	*a = all
	return nil
}

// A date is a NumericDate: seconds since 1970, perhaps with a fraction.
type date float64

func (d date) time() time.Time {
	sec, frac := math.Modf(float64(d))
	return time.Unix(int64(sec), int64(frac*1e9))
}

func (d *date) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	if f < 0 || f > 1<<37 { // the year 6325
		return errors.New("not a date")
	}
	*d = date(f)
	return nil
}

// parseJWT takes a compact signed token apart, strictly: no name twice in any
// object, names in their exact case, valid UTF-8, nothing before or after, and
// nothing in the header that would change how the rest is to be read.
func parseJWT(compact string) (*jwt, error) {
	if len(compact) > maxToken {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrToken, maxToken)
	}
	if strings.ContainsAny(compact, "\r\n") { // which decoders of base64 skip
		return nil, ErrToken
	}
	first := strings.IndexByte(compact, '.')
	last := strings.LastIndexByte(compact, '.')
	if first <= 0 || last == first || strings.IndexByte(compact[first+1:last], '.') >= 0 || last == len(compact)-1 {
		return nil, ErrToken
	}
	t := &jwt{compact: compact}
	head, err := base64.RawURLEncoding.Strict().DecodeString(compact[:first])
	if err != nil {
		return nil, ErrToken
	}
	if t.payload, err = base64.RawURLEncoding.Strict().DecodeString(compact[first+1 : last]); err != nil {
		return nil, ErrToken
	}
	if err := json.Unmarshal(head, &t.header); err != nil {
		return nil, fmt.Errorf("%w: its header is not strict JSON", ErrToken)
	}
	if err := json.Unmarshal(t.payload, &t.claims); err != nil {
		return nil, fmt.Errorf("%w: its claims are not strict JSON", ErrToken)
	}
	if t.header.Critical != nil || t.header.Base64 != nil || t.header.Zip != nil {
		return nil, fmt.Errorf("%w: its header asks for an extension", ErrToken)
	}
	return t, nil
}

// verify checks the signature. The key says which algorithms there can be.
func (t *jwt) verify(k jose.JSONWebKey, allowed []jose.SignatureAlgorithm) error {
	alg := jose.SignatureAlgorithm(t.header.Algorithm)
	if !slices.Contains(algorithms, alg) || !slices.Contains(allowed, alg) || !slices.Contains(keyAlgorithms(k), alg) {
		return fmt.Errorf("%w: signed with an algorithm that is not accepted from there", ErrToken)
	}
	jws, err := jose.ParseSignedCompact(t.compact, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return ErrToken
	}
	// k.Key and not k: the key's own id and certificates are none of its business.
	if _, err := jws.Verify(k.Key); err != nil {
		return fmt.Errorf("%w: its signature is not right", ErrToken)
	}
	return nil
}

// times checks when a token is good. It has to expire, within most.
func (c *claims) times(now time.Time, most time.Duration) error {
	if c.Expires == nil {
		return fmt.Errorf("%w: it never expires", ErrToken)
	}
	exp := c.Expires.time()
	switch {
	case !now.Before(exp.Add(skew)):
		return ErrExpired
	case exp.Sub(now) > most+skew:
		return fmt.Errorf("%w: it is good for longer than %v", ErrToken, most)
	case c.NotBefore != nil && c.NotBefore.time().After(now.Add(skew)):
		return fmt.Errorf("%w: it is not good yet", ErrToken)
	case c.IssuedAt != nil && c.IssuedAt.time().After(now.Add(skew)):
		return fmt.Errorf("%w: it was issued in the future", ErrToken)
	}
	return nil
}

// bound returns what a use of the token has to prove.
func (c *claims) bound() (keyID, cert string, err error) {
	if c.Confirm == nil {
		return "", "", nil
	}
	f := c.Confirm
	if f.JWK != nil || f.JWE != nil || f.KID != nil || f.JKU != nil || f.KeyID == "" && f.Cert == "" {
		return "", "", fmt.Errorf("%w: it is bound in a way that is not understood", ErrToken)
	}
	return f.KeyID, f.Cert, nil
}
