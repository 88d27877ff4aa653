package agentid

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/audit"
)

const (
	// keyLife is how long this host signs with one key.
	keyLife = 24 * time.Hour
	// maxJWTLife bounds tokens that others verify, who do not hear of revocations.
	maxJWTLife = 5 * time.Minute
)

// A signing is the key that this host signs with, and the public keys of all
// hosts. The private key is made here and never leaves this memory: after a
// restart there is another one.
type signing struct {
	mu     sync.Mutex
	signer jose.Signer
	since  time.Time

	keys   map[string]publishedKey // under the registry's lock
	synced time.Time
}

type publishedKey struct {
	key     jose.JSONWebKey
	expires time.Time
}

// RotateKey makes this host sign with a new key from here on. It does so by
// itself every day. Tokens that were signed with the old one stay good until
// they expire.
func (r *Registry) RotateKey(ctx context.Context, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return err
	}
	err := r.log.Append(ctx, audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "rotate_key", Resource: "TokenEndpoint", Change: &by,
	})
	if err != nil {
		return err
	}
	r.signing.mu.Lock()
	defer r.signing.mu.Unlock()
	return r.newKey(ctx)
}

// newKey publishes a new key and then signs with it. The caller holds signing.mu.
func (r *Registry) newKey(ctx context.Context) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public := jose.JSONWebKey{Key: private.Public(), Algorithm: string(jose.ES256), Use: "sig"}
	public.KeyID = thumbprint(public)
	text, err := public.MarshalJSON()
	if err != nil {
		return err
	}
	now := r.now()
	k := Key{ID: public.KeyID, JWK: text, Expires: now.Add(keyLife + maxJWTLife + 2*skew)}
	if err := r.store.AddKey(ctx, k); err != nil {
		return fmt.Errorf("agentid: store: %w", err)
	}
	r.apply(Changes{Keys: []Key{k}}, time.Time{})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private},
		(&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", public.KeyID))
	if err != nil {
		return err
	}
	r.signing.signer, r.signing.since = signer, now
	return nil
}

// takeKeys takes over published keys. The caller holds mu.
func (r *Registry) takeKeys(keys []Key) {
	now := r.now()
	for id, k := range r.signing.keys {
		if !now.Before(k.expires) {
			delete(r.signing.keys, id)
		}
	}
	for _, k := range keys {
		public, err := parsePublicKey(k.JWK, "")
		if err != nil || public.KeyID != k.ID || !now.Before(k.Expires) {
			continue
		}
		if r.signing.keys == nil {
			r.signing.keys = make(map[string]publishedKey)
		}
		r.signing.keys[k.ID] = publishedKey{public, k.Expires}
	}
}

// An ownGrant is what a token of ours says besides the standard claims.
type ownGrant struct {
	Life  uint64 `json:"life"`
	Chain []Link `json:"chain,omitzero"`
}

// sign returns a grant as a JWT access token.
func (r *Registry) sign(ctx context.Context, g Grant) (string, error) {
	r.signing.mu.Lock()
	defer r.signing.mu.Unlock()
	now := r.now()
	if r.signing.signer == nil || now.Sub(r.signing.since) >= keyLife {
		if err := r.newKey(ctx); err != nil {
			return "", err
		}
	}
	_, id := newToken("")
	c := map[string]any{
		"iss": r.issuer, "sub": g.Agent, "client_id": g.Agent, "aud": g.Audience,
		"iat": now.Unix(), "exp": g.Expires.Unix(), "jti": fmt.Sprintf("%x", id[:16]),
		"dev.twinward/grant": ownGrant{g.Life, g.Chain},
	}
	if g.User != "" {
		a := &act{Subject: g.Agent}
		for at := a; len(g.Chain) > 0; g.Chain = g.Chain[1:] {
			at.Act = &act{Subject: g.Chain[0].Agent}
			at = at.Act
		}
		c["sub"], c["act"] = g.User, a
	}
	if f := (confirm{KeyID: g.KeyID, Cert: g.Cert}); g.KeyID != "" || g.Cert != "" {
		c["cnf"] = f
	}
	payload, err := json.Marshal(c, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	jws, err := r.signing.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// findOwn verifies a JWT that a host of this registry has signed.
func (r *Registry) findOwn(ctx context.Context, t *jwt) (*token, error) {
	if t.header.Type != "at+jwt" {
		return nil, fmt.Errorf("%w: it is not an access token", ErrToken)
	}
	now := r.now()
	if err := t.claims.times(now, maxJWTLife); err != nil {
		return nil, err
	}
	k, err := r.ownKey(ctx, t.header.KeyID)
	if err != nil {
		return nil, err
	}
	if err := t.verify(k, []jose.SignatureAlgorithm{jose.ES256}); err != nil {
		return nil, err
	}
	c := &t.claims
	keyID, cert, err := c.bound()
	if err != nil || c.Grant == nil || len(c.Audience) != 1 || c.ClientID == "" {
		return nil, errors.Join(ErrToken, err)
	}
	g := Grant{
		Token: sha256.Sum256([]byte(t.compact)), Agent: c.ClientID, Life: c.Grant.Life, Chain: c.Grant.Chain,
		Audience: c.Audience[0], Expires: c.Expires.time(), KeyID: keyID, Cert: cert,
	}
	if c.Subject != c.ClientID {
		g.User = c.Subject
	}
	return r.adopt(ctx, g, r.issuer, nil)
}

// ownKey returns a published key. One that is missing may be new.
func (r *Registry) ownKey(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	r.mu.RLock()
	k, ok := r.signing.keys[kid]
	r.mu.RUnlock()
	if !ok && r.shared && r.keyMissed() {
		if err := r.Sync(ctx); err != nil {
			return jose.JSONWebKey{}, err
		}
		r.mu.RLock()
		k, ok = r.signing.keys[kid]
		r.mu.RUnlock()
	}
	if !ok || !r.now().Before(k.expires) {
		return jose.JSONWebKey{}, fmt.Errorf("%w: signed with a key that is not ours", ErrToken)
	}
	return k.key, nil
}

// keyMissed reports whether to ask the store for a key now: once in a second,
// whoever sends what.
func (r *Registry) keyMissed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.signing.synced) < time.Second {
		return false
	}
	r.signing.synced = time.Now()
	return true
}

// serveKeys serves the public keys of all hosts.
func (r *Registry) serveKeys(w http.ResponseWriter, req *http.Request) {
	if !onlyGet(w, req) {
		return
	}
	all := []jsontext.Value{}
	r.mu.RLock()
	for _, k := range r.signing.keys {
		if b, err := k.key.MarshalJSON(); err == nil && r.now().Before(k.expires) {
			all = append(all, b)
		}
	}
	r.mu.RUnlock()
	reply(w, http.StatusOK, map[string]any{"keys": all})
}
