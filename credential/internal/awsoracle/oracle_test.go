// Package awsoracle compares the signatures of credential.SigV4 with those of
// AWS's own signer. It is a module of its own so that users need not have it.
package awsoracle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/twinward-dev/twinward/credential"
)

// A request is what is signed.
type request struct {
	method, path, query, body, header string
	service                           string
	token                             string
	unsigned                          bool
}

var when = time.Date(2026, 11, 28, 19, 0, 0, 0, time.UTC)

// compare signs a request with both and reports a difference.
func compare(t *testing.T, c request) {
	t.Helper()
	u := &url.URL{Scheme: "https", Host: "b.example.amazonaws.com", Path: c.path, RawQuery: c.query}
	if c.service == "s3" {
		u.RawPath = escape(c.path) // as AWS's clients write it
	}
	build := func() *http.Request {
		r, err := http.NewRequest(c.method, "https://b.example.amazonaws.com", strings.NewReader(c.body))
		if err != nil {
			t.Skip(err)
		}
		twin := *u
		r.URL = &twin
		if c.header != "" {
			r.Header.Set("Content-Type", c.header)
			r.Header.Set("X-Amz-Meta", c.header)
		}
		return r
	}
	ours := build()
	key, err := json.Marshal(map[string]string{"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "SessionToken": c.token})
	if err != nil {
		t.Fatal(err)
	}
	scheme := credential.SigV4("eu-central-1", c.service, &credential.SigV4Options{UnsignedPayload: c.unsigned, Now: func() time.Time { return when }})
	if err := scheme.Apply(ours, key); err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	sent, err := io.ReadAll(ours.Body)
	if err != nil || string(sent) != c.body {
		t.Fatalf("%+v: the body was changed: %v", c, err)
	}

	theirs := build()
	sum := sha256.Sum256([]byte(c.body))
	payload := hex.EncodeToString(sum[:])
	if c.unsigned {
		payload = "UNSIGNED-PAYLOAD"
	}
	if c.unsigned || c.service == "s3" {
		theirs.Header.Set("X-Amz-Content-Sha256", payload)
	}
	theirs.ContentLength = -1 // a header that ours leaves to the transport
	creds := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", SessionToken: c.token}
	err = v4.NewSigner().SignHTTP(context.Background(), creds, theirs, payload, c.service, "eu-central-1", when, func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = c.service == "s3"
	})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); a != b {
		t.Fatalf("%+v\nours   %s\ntheirs %s", c, a, b)
	}
}

// escape is how AWS's clients write a key of S3 in a path.
func escape(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
		}
	}
	return b.String()
}

// query writes pairs in a random order, as different clients would encode them.
// Both signers must agree on what they mean. AWS's Go signer sorts names before
// it encodes them; its documentation sorts them afterwards, as ours does. The
// order differs only between characters that are encoded and those that are
// not, so that names here are of one kind.
func query(r *rand.Rand) string {
	var pairs []string
	for range r.IntN(5) {
		pairs = append(pairs, word(r, "abcXYZ019-_.")+"="+url.QueryEscape(word(r, "abc 019-_.~/+&=%é!*'()$,:@")))
	}
	sort.Slice(pairs, func(int, int) bool { return r.IntN(2) == 0 })
	return strings.Join(pairs, "&")
}

func word(r *rand.Rand, letters string) string {
	runes := []rune(letters)
	var b bytes.Buffer
	for range 1 + r.IntN(6) {
		b.WriteRune(runes[r.IntN(len(runes))])
	}
	return b.String()
}

func random(r *rand.Rand) request {
	c := request{
		method:   []string{"GET", "PUT", "POST", "DELETE"}[r.IntN(4)],
		path:     "/",
		query:    query(r),
		service:  []string{"s3", "dynamodb", "execute-api"}[r.IntN(3)],
		unsigned: r.IntN(3) == 0,
	}
	for i := range r.IntN(4) {
		if i > 0 {
			c.path += "/"
		}
		c.path += word(r, "abc 019-_.~+&=%é!*'()$,:@")
	}
	if r.IntN(2) == 0 {
		c.body = word(r, "abc{}\x00é")
	}
	if r.IntN(2) == 0 {
		c.header = "a  b " + word(r, "abc ;=/ ")
	}
	if r.IntN(2) == 0 {
		c.token = word(r, "abcdefgh+/=") + "0123456789"
	}
	return c
}

func TestAgreesWithAWS(t *testing.T) {
	n := 20_000
	if os.Getenv("TWINWARD_SOAK") != "" {
		n = 1_000_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d requests", seed, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		compare(t, random(r))
	}
}

func FuzzAgreesWithAWS(f *testing.F) {
	f.Add("GET", "/a b/c", "x", "body", "text/plain", true, "token-0123456789")
	f.Add("PUT", "/é/%2F/..", "X=", "", "", false, "")
	f.Fuzz(func(t *testing.T, method, path, value, body, header string, s3 bool, token string) {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(header+token, "\r\n\x00\x7f") || strings.TrimSpace(method) == "" {
			t.Skip()
		}
		for _, c := range []byte(header + token) {
			if c < ' ' || c > '~' {
				t.Skip()
			}
		}
		c := request{method: method, path: path, query: "k=" + url.QueryEscape(value), body: body, header: strings.TrimSpace(header), service: "dynamodb", token: token}
		if s3 {
			c.service = "s3"
		}
		compare(t, c)
	})
}
