package agentid

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// attacks are tokens that are as good as one can make them without the issuer's
// key, or with its signature on something that is not for us.
func attacks(t testing.TB, p *idp, now time.Time) map[string]string {
	k := testKeys()
	head, claims := goodHeader(), goodClaims(p, now)
	h, c := text(t, head), text(t, claims)
	good := compact(t, h, c, k.ec)
	signed := strings.Split(good, ".")
	pubDER, err := x509.MarshalPKIXPublicKey(k.rsa.Public())
	require.NoError(t, err)
	pubPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pubDER})
	rsaJWK, _ := json.Marshal(jwk(t, k.rsa.Public(), "rsa", ""))
	ours := func(claims obj) string { return compact(t, h, text(t, claims), k.ec) }
	headed := func(change obj) string { return compact(t, text(t, with(head, change)), c, k.ec) }
	raw := func(head, payload string) string { return compact(t, head, payload, k.ec) }
	date := func(d time.Duration) int64 { return now.Add(d).Unix() }
	zero := b64(make([]byte, 64))
	order := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	return map[string]string{
		// No signature, or none that counts.
		"alg none":                   compact(t, text(t, with(head, obj{"alg": "none"})), c, nil),
		"alg none, signed":           headed(obj{"alg": "none"}),
		"alg None":                   compact(t, text(t, with(head, obj{"alg": "None"})), c, nil),
		"alg empty":                  headed(obj{"alg": ""}),
		"no alg":                     headed(obj{"alg": nil}),
		"alg in lower case":          headed(obj{"alg": "es256"}),
		"no signature":               signed[0] + "." + signed[1] + ".",
		"signature cut":              good[:len(good)-4],
		"signature padded":           good + "==",
		"signature longer":           good + "AAAA",
		"zero signature":             signed[0] + "." + signed[1] + "." + zero,
		"signature r = s = n":        signed[0] + "." + signed[1] + "." + b64(append(order, order...)),
		"another's signature":        compact(t, h, c, k.ec2),
		"another payload":            signed[0] + "." + b64([]byte(text(t, with(claims, obj{"sub": "local"})))) + "." + signed[2],
		"another header":             b64([]byte(text(t, with(head, obj{"x": 1})))) + "." + signed[1] + "." + signed[2],
		"last bit":                   good[:len(good)-1] + string(good[len(good)-1]^1),
		"HS256 with the PEM":         compact(t, text(t, with(head, obj{"alg": "HS256", "kid": "rsa"})), c, pubPEM),
		"HS256 with the DER":         compact(t, text(t, with(head, obj{"alg": "HS256", "kid": "rsa"})), c, pubDER),
		"HS256 with the JWK":         compact(t, text(t, with(head, obj{"alg": "HS256", "kid": "rsa"})), c, rsaJWK),
		"HS256 with nothing":         compact(t, text(t, with(head, obj{"alg": "HS256"})), c, []byte{}),
		"HS256, no kid":              compact(t, text(t, with(head, obj{"alg": "HS256", "kid": nil})), c, []byte{}),
		"RS256 over an EC key":       compact(t, text(t, with(head, obj{"alg": "RS256", "kid": "ec"})), c, k.rsa),
		"ES256 over an RSA key":      compact(t, text(t, with(head, obj{"kid": "rsa"})), c, k.ec),
		"EdDSA over an EC key":       compact(t, text(t, with(head, obj{"alg": "EdDSA"})), c, k.ed),
		"ES384 over P-256":           compact(t, text(t, with(head, obj{"alg": "ES384"})), c, k.ec),
		"weak RSA":                   compact(t, text(t, with(head, obj{"alg": "RS256", "kid": "weak"})), c, k.weak),
		"an encryption key":          compact(t, text(t, with(head, obj{"kid": "enc"})), c, k.ec2),
		"PS256 over a key for RS256": compact(t, text(t, with(head, obj{"alg": "PS256", "kid": "rs256"})), c, k.rsa),
		"RS512":                      compact(t, text(t, with(head, obj{"alg": "RS512", "kid": "rsa"})), c, k.rsa),
		"encrypted (five parts)":     good + ".AAAA.AAAA",
		"two tokens":                 good + "." + good,

		// The key's place.
		"kid unknown":   headed(obj{"kid": "nobody"}),
		"kid a path":    compact(t, text(t, with(head, obj{"kid": "../../dev/null"})), c, []byte{}),
		"kid SQL":       headed(obj{"kid": "' or 1=1 --"}),
		"kid a number":  headed(obj{"kid": 1}),
		"kid an array":  headed(obj{"kid": []string{"ec"}}),
		"kid NUL":       headed(obj{"kid": "ec\x00"}),
		"no kid of six": headed(obj{"kid": nil}),
		"embedded jwk":  compact(t, text(t, with(head, obj{"jwk": jwk(t, k.ec2.Public(), "ec", "")})), c, k.ec2),
		"jwk, no kid":   compact(t, text(t, with(head, obj{"kid": nil, "jwk": jwk(t, k.ec2.Public(), "", "")})), c, k.ec2),
		"jku":           compact(t, text(t, with(head, obj{"kid": "evil", "jku": p.URL + "/evil"})), c, k.ec2),
		"x5u":           compact(t, text(t, with(head, obj{"kid": "evil", "x5u": p.URL + "/evil"})), c, k.ec2),
		"x5c":           compact(t, text(t, with(head, obj{"kid": "evil", "x5c": []string{b64(pubDER)}})), c, k.ec2),

		// The header.
		"crit":                 headed(obj{"crit": []string{"exp"}}),
		"crit unknown":         headed(obj{"crit": []string{"x"}, "x": 1}),
		"crit empty":           headed(obj{"crit": []string{}}),
		"crit null":            raw(h[:len(h)-1]+`,"crit":null}`, c),
		"b64 false":            headed(obj{"b64": false, "crit": []string{"b64"}}),
		"zip":                  headed(obj{"zip": "DEF"}),
		"alg twice":            raw(`{"alg":"ES256","kid":"ec","typ":"at+jwt","alg":"ES256"}`, c),
		"kid twice":            raw(`{"alg":"ES256","kid":"x","typ":"at+jwt","kid":"ec"}`, c),
		"ID token":             headed(obj{"typ": "JWT"}),
		"no typ":               headed(obj{"typ": nil}),
		"DPoP proof":           headed(obj{"typ": "dpop+jwt"}),
		"logout token":         headed(obj{"typ": "logout+jwt"}),
		"typ a number":         headed(obj{"typ": 1}),
		"header in other case": raw(`{"ALG":"ES256","kid":"ec","typ":"at+jwt"}`, c),
		"header not JSON":      raw(`{"alg":"ES256"`, c),
		"header trailing":      raw(h+`{}`, c),
		"header an array":      raw(`["ES256"]`, c),
		"header comment":       raw(h+"//", c),

		// The claims.
		"another's iss":         ours(with(claims, obj{"iss": "https://evil.example"})),
		"iss with a slash":      ours(with(claims, obj{"iss": p.URL + "/"})),
		"iss in capitals":       ours(with(claims, obj{"iss": strings.ToUpper(p.URL)})),
		"iss an array":          ours(with(claims, obj{"iss": []string{p.URL}})),
		"no iss":                ours(with(claims, obj{"iss": nil})),
		"our own iss":           ours(with(claims, obj{"iss": "https://issuer.example"})),
		"another aud":           ours(with(claims, obj{"aud": "https://other.local"})),
		"aud a prefix":          ours(with(claims, obj{"aud": "https://tools.local"})),
		"aud longer":            ours(with(claims, obj{"aud": tools + "/x"})),
		"aud with user":         ours(with(claims, obj{"aud": "https://x@tools.local/mcp"})),
		"no aud":                ours(with(claims, obj{"aud": nil})),
		"aud empty":             ours(with(claims, obj{"aud": []string{}})),
		"aud an object":         ours(with(claims, obj{"aud": obj{tools: true}})),
		"too many aud":          ours(with(claims, obj{"aud": append(make([]string, 20), tools)})),
		"aud in one string":     ours(with(claims, obj{"aud": "x " + tools})),
		"expired":               ours(with(claims, obj{"exp": date(-skew)})),
		"no exp":                ours(with(claims, obj{"exp": nil})),
		"exp a string":          ours(with(claims, obj{"exp": "9999999999"})),
		"exp huge":              raw(h, strings.Replace(c, `"exp":`, `"exp":1e300,"x":`, 1)),
		"exp negative":          ours(with(claims, obj{"exp": -1})),
		"good for a year":       ours(with(claims, obj{"exp": date(365 * 24 * time.Hour)})),
		"not good yet":          ours(with(claims, obj{"nbf": date(skew + time.Second)})),
		"from the future":       ours(with(claims, obj{"iat": date(skew + time.Second)})),
		"exp twice":             raw(h, `{"exp":1,`+c[1:]),
		"sub twice":             raw(h, `{"sub":"local",`+c[1:]),
		"sub twice, escaped":    raw(h, `{"\u0073ub":"local",`+c[1:]),
		"claims in other case":  raw(h, strings.Replace(c, `"exp"`, `"EXP"`, 1)),
		"no sub":                ours(with(claims, obj{"sub": nil, "client_id": nil})),
		"sub empty":             ours(with(claims, obj{"sub": ""})),
		"unknown agent":         ours(with(claims, obj{"sub": "nobody", "client_id": nil})),
		"somebody else's agent": ours(with(claims, obj{"sub": "local", "client_id": "local"})),
		"local agent acts":      ours(with(claims, obj{"sub": "alice", "act": obj{"sub": "local"}})),
		"agent in other case":   ours(with(claims, obj{"sub": "Standup", "client_id": nil})),
		"agent with NUL":        ours(with(claims, obj{"sub": "standup\x00", "client_id": nil})),
		"client_id and azp":     ours(with(claims, obj{"azp": "other"})),
		"act empty":             ours(with(claims, obj{"act": obj{}})),
		"act of another":        ours(with(claims, obj{"act": obj{"sub": "standup", "iss": "https://evil.example"}})),
		"act too deep":          ours(with(claims, obj{"act": obj{"sub": "standup", "act": obj{"sub": "a", "act": obj{"sub": "b", "act": obj{"sub": "c", "act": obj{"sub": "d"}}}}}})),
		"act a string":          ours(with(claims, obj{"act": "standup"})),
		"cnf unknown":           ours(with(claims, obj{"cnf": obj{"jwk": jwk(t, k.ec2.Public(), "", "")}})),
		"cnf empty":             ours(with(claims, obj{"cnf": obj{}})),
		"cnf, bound to a key":   ours(with(claims, obj{"cnf": obj{"jkt": "x"}})),
		"cnf, bound to a cert":  ours(with(claims, obj{"cnf": obj{"x5t#S256": "x"}})),
		"invalid UTF-8":         raw(h, strings.Replace(c, "standup", "standup\xff", 1)),
		"claims trailing":       raw(h, c+" {}"),
		"claims BOM":            raw(h, "\xef\xbb\xbf"+c),
		"claims an array":       raw(h, "["+c+"]"),
		"claims null":           raw(h, "null"),
		"claims deep":           raw(h, strings.Repeat(`{"a":`, 2000)+"1"+strings.Repeat("}", 2000)),
		"own grant":             ours(with(claims, obj{"iss": "https://issuer.example", "dev.twinward/grant": obj{"life": 0}})),
		"spiffe without domain": ours(with(claims, obj{"iss": nil, "sub": "spiffe://example.org/standup"})),

		// The form.
		"too long":        ours(with(claims, obj{"x": strings.Repeat("a", maxToken)})),
		"a megabyte":      strings.Repeat("a", 1<<20),
		"a megabyte dots": strings.Repeat(".", 1<<20),
		"space before":    " " + good,
		"line end":        good + "\n",
		"Bearer":          "Bearer " + good,
		"std base64":      strings.NewReplacer("-", "+", "_", "/").Replace(good) + "=",
		"empty parts":     "..",
		"JSON form":       `{"payload":"` + signed[1] + `","signatures":[{"protected":"` + signed[0] + `","signature":"` + signed[2] + `"}]}`,
	}
}

func TestAttacks(t *testing.T) {
	ctx := context.Background()
	p, c := newIDP(t), &clock{}
	r := newForeignRegistry(t, p, c, nil)
	good := compact(t, text(t, goodHeader()), text(t, goodClaims(p, c.now())), testKeys().ec)
	_, _, err := r.Verify(ctx, good, tools)
	require.NoError(t, err, "without the attack it is good")
	all := attacks(t, p, c.now())
	for name, token := range all {
		if token == good {
			t.Errorf("%s: is no attack", name)
		}
		actor, expires, err := r.Verify(ctx, token, tools)
		assert.Error(t, err, name)
		assert.Zero(t, actor, name)
		assert.Zero(t, expires, name)
	}
	t.Logf("%d attacks, none accepted", len(all))
	assert.Zero(t, p.asked("/evil"), "nobody is asked because a token says so")
	assert.Equal(t, 1, p.asked("/keys"))
}

// A token that is bound twice, in one way that is not understood, is refused
// whatever it proves in the other.
func TestBoundInUnknownWays(t *testing.T) {
	for _, cnf := range []string{`{}`, `{"jwk":{}}`, `{"jkt":"x","jwk":{}}`, `{"jkt":"x","jku":"https://x"}`, `{"x5t#S256":"x","kid":"1"}`, `{"jkt":"x","jwe":"x"}`} {
		var c claims
		require.NoError(t, jsonv2.Unmarshal([]byte(`{"cnf":`+cnf+`}`), &c))
		_, _, err := c.bound()
		assert.ErrorIs(t, err, ErrToken, cnf)
	}
}

// FuzzForeignToken changes parts of tokens. What is accepted has a header and
// claims that were signed as they are.
func FuzzForeignToken(f *testing.F) {
	p, c := newIDP(f), &clock{}
	r := newForeignRegistry(f, p, c, nil)
	good := compact(f, text(f, goodHeader()), text(f, goodClaims(p, c.now())), testKeys().ec)
	parts := strings.Split(good, ".")
	_, _, err := r.Verify(context.Background(), good, tools)
	require.NoError(f, err)
	for _, token := range attacks(f, p, c.now()) {
		if len(token) < 4096 {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		_, _, err := r.Verify(context.Background(), token, tools)
		if err == nil && !strings.HasPrefix(token, parts[0]+"."+parts[1]+".") {
			t.Fatalf("accepted: %q", token)
		}
	})
}

// FuzzClaims signs what the fuzzer makes up: the claims are read strictly, and
// what is accepted says what it has to.
func FuzzClaims(f *testing.F) {
	p, c, k := newIDP(f), &clock{}, testKeys()
	r := newForeignRegistry(f, p, c, nil)
	good := text(f, goodClaims(p, c.now()))
	f.Add(strings.ReplaceAll(good, p.URL, "ISS"))
	f.Add(`{"iss":"ISS","sub":"standup","aud":["` + tools + `"],"exp":1.8000001e9,"exp":1}`)
	f.Fuzz(func(t *testing.T, payload string) {
		payload = strings.ReplaceAll(payload, "ISS", p.URL)
		actor, _, err := r.Verify(context.Background(), compact(t, text(t, goodHeader()), payload, k.ec), tools)
		if err != nil {
			return
		}
		var claims struct {
			ISS string  `json:"iss"`
			EXP float64 `json:"exp"`
		}
		require.NoError(t, json.Unmarshal([]byte(payload), &claims))
		require.Equal(t, p.URL, claims.ISS)
		require.Greater(t, claims.EXP, float64(c.now().Add(-skew).Unix()))
		require.Equal(t, "standup", actor.Agent)
	})
}

func BenchmarkForeignToken(b *testing.B) {
	ctx := context.Background()
	p := newIDP(b)
	r := newForeignRegistry(b, p, nil, nil)
	k := testKeys()
	now := time.Now()
	for name, s := range map[string]struct {
		header obj
		key    any
	}{
		"ES256": {goodHeader(), k.ec}, "RS256": {obj{"alg": "RS256", "kid": "rsa", "typ": "at+jwt"}, k.rsa}, "EdDSA": {obj{"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}, k.ed},
	} {
		token := compact(b, text(b, s.header), text(b, goodClaims(p, now)), s.key)
		b.Run(name+"/first", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.mu.Lock()
				clear(r.tokens)
				r.expiry.q = nil
				r.agents["standup"].tokens = 0
				r.mu.Unlock()
				if _, _, err := r.Verify(ctx, token, tools); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/again", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Verify(ctx, token, tools); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
