package agentid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"github.com/twinward-dev/twinward/credential"
)

const (
	maxDocument  = 256 << 10        // bytes of an issuer's metadata or key set
	fetchWait    = 5 * time.Second  // for one document
	fetchPause   = 10 * time.Second // between two questions for one issuer's keys
	keysFresh    = 10 * time.Minute // for how long keys are not asked for again
	keysStaleMax = time.Hour        // for how long they are good while the issuer cannot be asked
)

var errKeys = errors.New("agentid: the issuer's keys cannot be had")

// A keySource is the key set of one external issuer.
type keySource struct {
	issuer     string // exact, empty without discovery
	url        string // of the key set; empty until it was discovered
	discovered bool   // url is from the issuer's metadata
	use        string // what keys may be for, besides "sig"
	client     *http.Client
	now        func() time.Time

	mu      sync.Mutex
	keys    map[string]jose.JSONWebKey
	fetched time.Time     // when the keys were had last
	tried   time.Time     // when they were asked for last
	flight  chan struct{} // closed when the question that is under way is answered
	err     error         // of the last question
}

// key returns the key with an id, or the only one if the id is empty. It asks the
// issuer for keys that are old or lack the id, at most once in fetchPause, one
// question at a time, and waits for that no longer than ctx.
func (s *keySource) key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, found := s.find(kid)
	old := s.now().Sub(s.fetched) >= keysFresh
	if !found || old {
		if s.flight == nil && s.now().Sub(s.tried) >= fetchPause {
			s.tried = s.now()
			s.flight = make(chan struct{})
			go s.fetch(context.WithoutCancel(ctx), s.flight)
		}
		if flight := s.flight; flight != nil {
			s.mu.Unlock()
			var err error
			select {
			case <-flight:
			case <-ctx.Done():
				err = ctx.Err()
			}
			s.mu.Lock()
			if err != nil {
				return k, fmt.Errorf("%w: %w", errKeys, err)
			}
			k, found = s.find(kid)
		}
	}
	switch {
	case s.now().Sub(s.fetched) >= keysStaleMax:
		return k, fmt.Errorf("%w: %w", errKeys, s.err)
	case !found:
		return k, fmt.Errorf("%w: its issuer has no such key", ErrToken)
	}
	return k, nil
}

func (s *keySource) find(kid string) (jose.JSONWebKey, bool) {
	if kid == "" && len(s.keys) == 1 {
		for _, k := range s.keys {
			return k, true
		}
	}
	k, ok := s.keys[kid]
	return k, ok
}

func (s *keySource) fetch(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	keys, err := s.load(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.keys, s.fetched = keys, s.now()
	} else if s.discovered {
		s.url = "" // it may have moved
	}
	s.flight = nil
	close(flight)
}

func (s *keySource) load(ctx context.Context) (map[string]jose.JSONWebKey, error) {
	s.mu.Lock()
	url := s.url
	s.mu.Unlock()
	if url == "" {
		var err error
		if url, err = s.discover(ctx); err != nil {
			return nil, err
		}
	}
	doc, err := s.get(ctx, url)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []jsonObject `json:"keys"`
	}
	if err := json.Unmarshal(doc, &set); err != nil {
		return nil, errors.New("what it serves is not a JWK Set")
	}
	keys := map[string]jose.JSONWebKey{}
	for _, b := range set.Keys {
		// Issuers have keys for other things too: those are left out.
		k, err := parsePublicKey(b, s.use)
		if err != nil {
			continue
		}
		if _, twice := keys[k.KeyID]; twice {
			return nil, errors.New("two of its keys have one kid")
		}
		if keys[k.KeyID] = k; len(keys) > maxKeys {
			return nil, errors.New("it has too many keys")
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no key that signs")
	}
	return keys, nil
}

// discover finds the key set in the issuer's metadata (OpenID Connect Discovery,
// 4, or RFC 8414, 3), which has to name the issuer exactly.
func (s *keySource) discover(ctx context.Context) (string, error) {
	origin, err := credential.Origin(s.issuer)
	if err != nil {
		return "", err
	}
	base := strings.TrimSuffix(s.issuer, "/")
	path := base[len(base)-len(strings.TrimPrefix(base, originPrefix(base))):]
	doc, err := s.get(ctx, base+"/.well-known/openid-configuration")
	if err != nil {
		if doc, err = s.get(ctx, origin+"/.well-known/oauth-authorization-server"+path); err != nil {
			return "", err
		}
	}
	var meta struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(doc, &meta); err != nil {
		return "", errors.New("its metadata is not strict JSON")
	}
	if meta.Issuer != s.issuer {
		return "", errors.New("its metadata is that of another issuer")
	}
	keys, err := credential.Origin(meta.JWKS)
	if err != nil || strings.HasPrefix(origin, "https:") && !strings.HasPrefix(keys, "https:") {
		return "", errors.New("its jwks_uri is not https")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url, s.discovered = meta.JWKS, true
	return meta.JWKS, nil
}

// originPrefix returns scheme://authority of a URL as it is written.
func originPrefix(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return url[:len(url)-len(rest)+len(host)]
}

func (s *keySource) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", url, resp.StatusCode)
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(doc) > maxDocument {
		err = fmt.Errorf("%s answers with more than %d bytes", url, maxDocument)
	}
	return doc, err
}
