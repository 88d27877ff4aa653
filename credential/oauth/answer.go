package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// maxAnswer bounds what a server may answer.
const maxAnswer = 1 << 20

// maxLife bounds the life of tokens: what claims more is a mistake.
const maxLife = 366 * 24 * time.Hour

// An answer is that of a token endpoint.
type answer struct {
	access    credential.Secret
	refresh   credential.Secret // empty if there is none
	issued    string            // issued_token_type
	tokenType string
	life      time.Duration // 0: not said
	scopes    []string      // nil: as asked for
}

// send sends a request to a token endpoint.
func send(h *http.Client, req *http.Request, issuer string) (answer, error) {
	m, status, err := exchange(h, req)
	if err != nil {
		return answer{}, err
	}
	if status != http.StatusOK {
		return answer{}, errorOf(m, status, issuer)
	}
	return m.answer()
}

// exchange sends a request and returns the JSON object that is the answer, nil
// if an error came without one.
func exchange(h *http.Client, req *http.Request) (members, int, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := h.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may hold a secret
		}
		return nil, 0, fmt.Errorf("oauth: %s cannot be asked: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	defer clear(body)
	if err != nil {
		return nil, 0, fmt.Errorf("oauth: the answer of %s cannot be read: %w", req.URL.Host, err)
	}
	if len(body) > maxAnswer {
		return nil, 0, fmt.Errorf("%w: more than %d bytes", ErrResponse, maxAnswer)
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		if resp.StatusCode >= 200 && resp.StatusCode < 300 {
			return nil, 0, fmt.Errorf("%w: it is not JSON", ErrResponse)
		}
		return nil, resp.StatusCode, nil
	}
	m, err := object(body)
	if err != nil && resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil, 0, err
	}
	return m, resp.StatusCode, nil
}

// errorOf makes an error of the code in an answer, and of nothing else.
func errorOf(m members, status int, issuer string) *Error {
	e := &Error{Issuer: issuer, Status: status}
	if code, err := m.text("error"); err == nil && len(code) <= 64 && strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") == "" {
		e.Code = code
	}
	switch e.Code {
	case "invalid_client", "invalid_grant", "unauthorized_client":
		e.reauth = true
	}
	return e
}

// members are those of a JSON object, by their exact names.
type members map[string]json.RawMessage

// object reads one JSON object, whose members are all different.
func object(body []byte) (members, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%w: it is no JSON object", ErrResponse)
	}
	m := make(members)
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("%w: it is not JSON", ErrResponse)
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("%w: it has a member twice", ErrResponse)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("%w: it is not JSON", ErrResponse)
		}
		m[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON", ErrResponse)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", ErrResponse)
	}
	return m, nil
}

// text returns a member that is a string, "" if it is absent or null.
func (m members) text(name string) (s string, err error) {
	if err := m.read(name, &s); err != nil {
		return "", err
	}
	return s, nil
}

func (m members) read(name string, v any) error {
	raw, ok := m[name]
	if !ok || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: its %s is of another type", ErrResponse, name)
	}
	return nil
}

// secret returns a member that is a string as a secret.
func (m members) secret(name string) (credential.Secret, error) {
	s, err := m.text(name)
	if err != nil || s == "" {
		return credential.Secret{}, err
	}
	for _, c := range []byte(s) { // VSCHAR of RFC 6749, appendix A
		if c < ' ' || c > '~' {
			return credential.Secret{}, fmt.Errorf("%w: its %s has characters that no token has", ErrResponse, name)
		}
	}
	return credential.NewSecret([]byte(s)), nil
}

// answer reads what a token endpoint says (RFC 6749, 5.1).
func (m members) answer() (a answer, err error) {
	var life json.Number
	for _, step := range []func() error{
		func() (err error) { a.access, err = m.secret("access_token"); return },
		func() (err error) { a.refresh, err = m.secret("refresh_token"); return },
		func() (err error) { a.tokenType, err = m.text("token_type"); return },
		func() (err error) { a.issued, err = m.text("issued_token_type"); return },
		func() error { return m.read("expires_in", &life) },
		func() error {
			s, err := m.text("scope")
			a.scopes = strings.Fields(s)
			return err
		},
	} {
		if err := step(); err != nil {
			return answer{}, err
		}
	}
	if a.access.Use(func([]byte) error { return nil }) != nil {
		return answer{}, fmt.Errorf("%w: it has no access_token", ErrResponse)
	}
	if life != "" {
		n, err := strconv.ParseFloat(string(life), 64)
		if err != nil || n < 0 || n > maxLife.Seconds() {
			return answer{}, fmt.Errorf("%w: its expires_in is no number of seconds", ErrResponse)
		}
		if a.life = time.Duration(n) * time.Second; a.life == 0 {
			a.life = -1 // it has ended: not the same as not said
		}
	}
	return a, nil
}
