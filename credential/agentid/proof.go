package agentid

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// proofAge is how old a DPoP proof may be.
const proofAge = time.Minute

// ErrProof is returned for a token that is bound to a key or a certificate, when
// the request does not prove that its sender has that.
var ErrProof = errors.New("agentid: the token is bound, and the request does not prove that its sender may use it")

// A proof is what a request brings to prove possession.
type proof struct {
	method, path string
	scheme       string   // of the Authorization header, in lower case
	dpop         []string // the DPoP headers
	cert         string   // the hash of the client certificate
}

type proofKey struct{}

// WithProof serves next with what [Registry.Verify] needs for tokens that are
// bound to a key (DPoP, RFC 9449) or to a client certificate (RFC 8705); without
// it, it refuses such tokens. It goes around a door's handler, on the server that
// terminates TLS. Next sees "Authorization: DPoP" as Bearer.
func WithProof(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p := newProof(req)
		req = req.WithContext(context.WithValue(req.Context(), proofKey{}, p))
		if len(p.dpop) > 0 || p.scheme == "dpop" {
			req.Header = req.Header.Clone() // those that came are not ours to change
			req.Header.Del("DPoP")
			if _, token, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok && p.scheme == "dpop" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
		}
		next.ServeHTTP(w, req)
	})
}

func newProof(req *http.Request) *proof {
	p := &proof{method: req.Method, path: req.URL.EscapedPath(), dpop: req.Header.Values("DPoP")}
	if values := req.Header.Values("Authorization"); len(values) == 1 {
		scheme, _, _ := strings.Cut(values[0], " ")
		p.scheme = strings.ToLower(scheme)
	}
	if req.TLS != nil && len(req.TLS.PeerCertificates) > 0 {
		p.cert = certHash(req.TLS.PeerCertificates[0].Raw)
	}
	return p
}

func certHash(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// prove returns ErrProof unless the request with this context proves what the
// token asks for.
func (r *Registry) prove(ctx context.Context, t *token, bearer, audience string) error {
	p, _ := ctx.Value(proofKey{}).(*proof)
	if t.KeyID == "" && t.Cert == "" {
		if p != nil && p.scheme == "dpop" {
			return fmt.Errorf("%w: it is presented as if bound to a key", ErrToken)
		}
		return nil
	}
	if p == nil {
		return fmt.Errorf("%w: is the door's handler inside WithProof?", ErrProof)
	}
	if t.Cert != "" && !same(t.Cert, p.cert) {
		return fmt.Errorf("%w: another client certificate, or none", ErrProof)
	}
	if t.KeyID == "" {
		return nil
	}
	if p.scheme != "dpop" {
		return fmt.Errorf("%w: not presented with the scheme DPoP", ErrProof)
	}
	origin, err := credential.Origin(audience)
	if err != nil {
		return ErrAudience
	}
	sum := sha256.Sum256([]byte(bearer))
	keyID, err := r.dpop(ctx, p, origin+p.path, base64.RawURLEncoding.EncodeToString(sum[:]))
	if err != nil {
		return err
	}
	if !same(t.KeyID, keyID) {
		return fmt.Errorf("%w: signed with another key", ErrProof)
	}
	return nil
}

func same(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// dpop checks the one DPoP proof of a request (RFC 9449, 4.3) and returns the
// thumbprint of its key. Each proof is good once, on all hosts.
func (r *Registry) dpop(ctx context.Context, p *proof, target, accessHash string) (string, error) {
	if len(p.dpop) != 1 {
		return "", fmt.Errorf("%w: there are %d DPoP headers", ErrProof, len(p.dpop))
	}
	t, err := parseJWT(p.dpop[0])
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrProof, err)
	}
	if !strings.EqualFold(t.header.Type, "dpop+jwt") || len(t.header.JWK) == 0 {
		return "", fmt.Errorf("%w: not a DPoP proof", ErrProof)
	}
	k, err := parsePublicKey([]byte(t.header.JWK), "")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := t.verify(k, algorithms); err != nil {
		return "", fmt.Errorf("%w: %w", ErrProof, err)
	}
	c, now := &t.claims, r.now()
	switch {
	case c.Method != p.method:
		return "", fmt.Errorf("%w: for another method", ErrProof)
	case !sameTarget(c.URL, target):
		return "", fmt.Errorf("%w: for another URL", ErrProof)
	case !same(c.AccessHash, accessHash):
		return "", fmt.Errorf("%w: for another token", ErrProof)
	case c.IssuedAt == nil || c.IssuedAt.time().Before(now.Add(-proofAge)) || c.IssuedAt.time().After(now.Add(skew)):
		return "", fmt.Errorf("%w: too old, or from the future", ErrProof)
	case c.ID == "" || len(c.ID) > 256:
		return "", fmt.Errorf("%w: without a jti", ErrProof)
	}
	keyID := thumbprint(k)
	if err := r.once(ctx, c.IssuedAt.time().Add(proofAge+skew), "dpop", keyID, c.ID); err != nil {
		return "", fmt.Errorf("%w: %w", ErrProof, err)
	}
	return keyID, nil
}

// once returns ErrReplay if these words, on any host, were given to it before.
func (r *Registry) once(ctx context.Context, until time.Time, words ...string) error {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s,", len(w), w)
	}
	return r.store.Once(ctx, Hash(h.Sum(nil)), until)
}

// sameTarget compares URLs without query and fragment, in their canonical form.
func sameTarget(claimed, target string) bool {
	a, okA := bareURL(claimed)
	b, okB := bareURL(target)
	return okA && okB && a == b
}

func bareURL(raw string) (string, bool) {
	if len(raw) > 2048 {
		return "", false
	}
	origin, err := credential.Origin(raw)
	if err != nil {
		return "", false
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", false
	}
	path := u.EscapedPath()
	if path == "/" {
		path = ""
	}
	return origin + path, true
}
