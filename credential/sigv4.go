package credential

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// SigV4Options are what may be left out of [SigV4].
type SigV4Options struct {
	// UnsignedPayload leaves bodies out of the signature, so that they can be
	// streamed. Services other than S3 refuse that.
	UnsignedPayload bool
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// SigV4 signs requests to AWS with Signature Version 4; the key itself never
// goes out. The secret is what "aws configure export-credentials" prints, a
// JSON object with AccessKeyId, SecretAccessKey and perhaps SessionToken. Each
// request is signed for one region and service, such as "eu-central-1" and
// "s3".
//
// The body is part of the signature. It is read twice if the request has
// GetBody, and held in memory otherwise, up to 16 MiB; a larger one is refused
// with [ErrBody]. What a client has signed or hashed itself
// (X-Amz-Content-Sha256, the presigning parameters of a query) does not count
// and is removed or refused.
func SigV4(region, service string, opts *SigV4Options) Scheme {
	s := sigV4{region: region, service: service}
	if opts != nil {
		s.SigV4Options = *opts
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	return s
}

type sigV4 struct {
	region, service string
	SigV4Options
}

// maxSigned bounds the bodies that are held in memory to be signed.
const maxSigned = 16 << 20

const (
	unsignedPayload = "UNSIGNED-PAYLOAD"
	algorithm       = "AWS4-HMAC-SHA256"
)

type awsKey struct {
	AccessKeyID     jsonBytes `json:"AccessKeyId"`
	SecretAccessKey jsonBytes
	SessionToken    jsonBytes
	Expiration      string
	Version         int
}

func (k *awsKey) clear() {
	clear(k.SecretAccessKey)
	clear(k.SessionToken)
}

// A jsonBytes is a JSON string as bytes, which can be zeroed.
type jsonBytes []byte

func (b *jsonBytes) UnmarshalJSON(raw []byte) error {
	if len(raw) < 2 || raw[0] != '"' {
		return errors.New("not a string")
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		*b = bytes.Clone(raw[1 : len(raw)-1])
		return nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	*b = []byte(s)
	return err
}

func parseAWSKey(secret []byte) (k awsKey, err error) {
	if err := strictJSON(secret, &k); err != nil || len(k.AccessKeyID) == 0 || len(k.SecretAccessKey) < MinLength ||
		!validValue(k.AccessKeyID) || !validValue(k.SessionToken) {
		k.clear()
		return awsKey{}, fmt.Errorf("%w: not a JSON object with AccessKeyId and SecretAccessKey", ErrScheme)
	}
	return k, nil
}

// Parts implements [Divider].
func (s sigV4) Parts(secret []byte) ([]Secret, error) {
	k, err := parseAWSKey(secret)
	if err != nil {
		return nil, err
	}
	parts := []Secret{NewSecret(k.SecretAccessKey)}
	if len(k.SessionToken) >= MinLength {
		parts = append(parts, NewSecret(k.SessionToken))
	}
	return parts, nil
}

// Apply implements [Scheme].
func (s sigV4) Apply(r *http.Request, secret []byte) error {
	if s.region == "" || s.service == "" {
		return ErrScheme
	}
	k, err := parseAWSKey(secret)
	if err != nil {
		return err
	}
	defer k.clear()
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	for name := range r.Header {
		// By the name as it was spelled, which Del would change.
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-security-") || lower == "x-amz-content-sha256" || lower == "x-amz-date" {
			delete(r.Header, name)
		}
	}
	payload := unsignedPayload
	if !s.UnsignedPayload {
		if payload, err = hashBody(r); err != nil {
			return err
		}
	}
	now := s.Now().UTC()
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	r.Header.Set("X-Amz-Date", stamp)
	if len(k.SessionToken) > 0 {
		r.Header.Set("X-Amz-Security-Token", string(k.SessionToken))
	}
	if s.UnsignedPayload || s.isS3() {
		r.Header.Set("X-Amz-Content-Sha256", payload)
	}
	names, headers := canonicalHeaders(r)
	request := strings.Join([]string{cmp.Or(r.Method, http.MethodGet), s.canonicalPath(r.URL), query, headers, names, payload}, "\n")
	scope := strings.Join([]string{day, s.region, s.service, "aws4_request"}, "/")
	sum := sha256.Sum256([]byte(request))
	toSign := strings.Join([]string{algorithm, stamp, scope, hex.EncodeToString(sum[:])}, "\n")

	key := append([]byte("AWS4"), k.SecretAccessKey...)
	for _, part := range []string{day, s.region, s.service, "aws4_request"} {
		next := mac(key, part)
		clear(key)
		key = next
	}
	defer clear(key)
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		algorithm, k.AccessKeyID, scope, names, mac(key, toSign)))
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	io.WriteString(h, text)
	return h.Sum(nil)
}

// isS3 reports whether the service's paths are encoded once and not twice.
func (s sigV4) isS3() bool { return s.service == "s3" || strings.HasPrefix(s.service, "s3-") }

func (s sigV4) canonicalPath(u *url.URL) string {
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	if s.isS3() {
		path = u.Path // encoded once, whatever the client's encoding was
		if path == "" {
			path = "/"
		}
	}
	return awsEscape(path, true)
}

// canonicalQuery encodes every name and value in AWS's way and sorts them.
func canonicalQuery(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	var pairs [][2]string
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil || strings.Contains(pair, ";") {
			return "", fmt.Errorf("%w: the query cannot be read", ErrScheme)
		}
		switch strings.ToLower(name) {
		case "x-amz-signature", "x-amz-credential", "x-amz-algorithm", "x-amz-security-token", "x-amz-signedheaders":
			return "", fmt.Errorf("%w: the request is presigned", ErrScheme)
		}
		pairs = append(pairs, [2]string{awsEscape(name, false), awsEscape(value, false)})
	}
	slices.SortFunc(pairs, func(a, b [2]string) int {
		return cmp.Or(strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1]))
	})
	var out strings.Builder
	for i, p := range pairs {
		if i > 0 {
			out.WriteByte('&')
		}
		out.WriteString(p[0] + "=" + p[1])
	}
	return out.String(), nil
}

// awsEscape percent-encodes all but the unreserved characters of RFC 3986.
func awsEscape(s string, keepSlash bool) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~', c == '/' && keepSlash:
			out.WriteByte(c)
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// canonicalHeaders signs the host, what describes the body, and AWS's own
// headers; those that a proxy on the way may change are left out.
func canonicalHeaders(r *http.Request) (names, lines string) {
	host := cmp.Or(r.Host, r.URL.Host)
	if p := ":" + map[string]string{"https": "443", "http": "80"}[r.URL.Scheme]; strings.HasSuffix(host, p) {
		host = strings.TrimSuffix(host, p)
	}
	values := map[string]string{"host": host}
	for name, v := range r.Header {
		lower := strings.ToLower(name)
		if lower != "content-type" && lower != "content-md5" && !strings.HasPrefix(lower, "x-amz-") {
			continue
		}
		trimmed := make([]string, len(v))
		for i := range v {
			trimmed[i] = strings.Join(strings.FieldsFunc(v[i], func(c rune) bool { return c == ' ' || c == '\t' }), " ")
		}
		values[lower] = strings.Join(trimmed, ",")
	}
	sorted := make([]string, 0, len(values))
	for name := range values {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var out strings.Builder
	for _, name := range sorted {
		out.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(sorted, ";"), out.String()
}

// hashBody returns the SHA-256 of the body and leaves it to be sent.
func hashBody(r *http.Request) (string, error) {
	sum := func(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
	h := sha256.New()
	if r.Body == nil || r.Body == http.NoBody {
		return sum(h), nil
	}
	if r.GetBody != nil {
		twin, err := r.GetBody()
		if err == nil {
			_, err = io.Copy(h, twin)
			_ = twin.Close()
		}
		if err != nil {
			return "", fmt.Errorf("%w: it cannot be read", ErrBody)
		}
		return sum(h), nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxSigned+1))
	if err != nil {
		return "", fmt.Errorf("%w: it cannot be read", ErrBody)
	}
	if len(body) > maxSigned {
		return "", fmt.Errorf("%w: more than %d bytes cannot be signed; send it with GetBody or UnsignedPayload", ErrBody, maxSigned)
	}
	_ = r.Body.Close()
	h.Write(body)
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return sum(h), nil
}
