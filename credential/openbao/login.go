package openbao

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/credential"
)

// A Login is how the store proves to the server who it is: made by [Token],
// [AppRole] or [Kubernetes].
type Login struct {
	token credential.Secret // without a mount
	mount string
	body  func() ([]byte, error) // of the request to auth/<mount>/login
}

// Token is a token that somebody else got. It is renewed as long as the server
// renews it; after that the store is denied.
func Token(token credential.Secret) Login { return Login{token: token} }

// AppRole trades a role id and its secret id for tokens, at auth/approle. A
// secret id that may be used a few times only is used up by as many logins, of
// which there is one at the start and one whenever a token cannot be renewed.
func AppRole(roleID string, secretID credential.Secret) Login {
	return Login{mount: "approle", body: func() ([]byte, error) {
		if roleID == "" {
			return nil, errors.New("openbao: AppRole without a role id")
		}
		return loginBody("role_id", roleID, "secret_id", secretID)
	}}
}

// DefaultTokenFile is where Kubernetes puts a pod's service account token.
const DefaultTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Kubernetes trades the token of the pod's service account, which it reads anew
// for each login, at auth/kubernetes. An empty tokenFile means
// [DefaultTokenFile].
func Kubernetes(role, tokenFile string) Login {
	if tokenFile == "" {
		tokenFile = DefaultTokenFile
	}
	return Login{mount: "kubernetes", body: func() ([]byte, error) {
		if role == "" {
			return nil, errors.New("openbao: Kubernetes without a role")
		}
		token, err := readToken(tokenFile)
		if err != nil {
			return nil, fmt.Errorf("openbao: the service account's token: %w", err)
		}
		return loginBody("role", role, "jwt", token)
	}}
}

// At returns the same login where the method is mounted at auth/<mount>.
func (l Login) At(mount string) Login {
	l.mount = mount
	return l
}

func (l Login) validate() error {
	if l.body == nil {
		return l.token.Use(func(b []byte) error { return validToken(b) })
	}
	if !validPath(l.mount) {
		return fmt.Errorf("openbao: %q is no mount of a login", l.mount)
	}
	return nil
}

// repeats reports whether the login can be done again when its token has ended.
func (l Login) repeats() bool { return l.body != nil }

// validToken reports whether a token can stand in a header.
func validToken(b []byte) error {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return errors.New("openbao: the token has characters that no token has, such as a line's end")
		}
	}
	return nil
}

// readToken reads a file of one token.
func readToken(path string) (credential.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return credential.Secret{}, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, credential.MaxLength+1))
	if err != nil {
		return credential.Secret{}, err
	}
	defer clear(b)
	if len(b) > credential.MaxLength {
		return credential.Secret{}, errors.New("it is too long")
	}
	return credential.NewSecret(bytes.TrimSpace(b)), nil
}

// loginBody returns {"<key>": "<value>", "<secretKey>": "<secret>"}.
func loginBody(key, value, secretKey string, secret credential.Secret) ([]byte, error) {
	name, err := jsontext.AppendQuote(nil, value)
	if err != nil {
		return nil, errors.New("openbao: the role is not UTF-8")
	}
	var body []byte
	err = secret.Use(func(b []byte) error {
		if err := validToken(b); err != nil {
			return err
		}
		// What a token may hold stands for itself in JSON, but for these two.
		if bytes.ContainsAny(b, `"\`) {
			return errors.New("openbao: the login's secret has a quote or a backslash")
		}
		body = fmt.Appendf(make([]byte, 0, len(name)+len(b)+64), `{%q:%s,%q:"`, key, name, secretKey)
		body = append(append(body, b...), `"}`...)
		return nil
	})
	return body, err
}

// A grant is what a login or a renewal gives.
type grant struct {
	token     credential.Secret
	seconds   int64 // 0 means that it does not end
	renewable bool
}

// authAnswer is the part of an answer that carries a token.
type authAnswer struct {
	Auth *struct {
		ClientToken   text  `json:"client_token"`
		LeaseDuration int64 `json:"lease_duration"`
		Renewable     bool  `json:"renewable"`
	} `json:"auth"`
}

// grantOf reads the grant out of an answer.
func grantOf(op string, a *answer) (grant, error) {
	defer a.wipe()
	var in authAnswer
	if err := a.decode(op, &in); err != nil {
		return grant{}, err
	}
	if in.Auth == nil || len(in.Auth.ClientToken) == 0 || validToken(in.Auth.ClientToken) != nil || in.Auth.LeaseDuration < 0 {
		return grant{}, &Error{Op: op, Status: a.status, kind: ErrAnswer}
	}
	return grant{
		token:     credential.NewSecret(in.Auth.ClientToken),
		seconds:   in.Auth.LeaseDuration,
		renewable: in.Auth.Renewable,
	}, nil
}

// enter does the login.
func (c *client) enter(ctx context.Context, l Login) (grant, error) {
	if !l.repeats() {
		return c.lookup(ctx, l.token)
	}
	body, err := l.body()
	if err != nil {
		return grant{}, err
	}
	const op = "login"
	a, err := c.do(ctx, "", call{op: op, method: http.MethodPost, path: "auth/" + l.mount + "/login", body: body})
	if err != nil {
		return grant{}, err
	}
	return grantOf(op, a)
}

// lookup asks the server how long a token lives.
func (c *client) lookup(ctx context.Context, token credential.Secret) (grant, error) {
	const op = "look up the token"
	a, err := c.with(ctx, token, call{op: op, method: http.MethodGet, path: "auth/token/lookup-self"})
	if err != nil {
		return grant{}, err
	}
	defer a.wipe()
	var in struct {
		Data *struct {
			TTL       int64 `json:"ttl"`
			Renewable bool  `json:"renewable"`
		} `json:"data"`
	}
	if err := a.decode(op, &in); err != nil {
		return grant{}, err
	}
	if in.Data == nil || in.Data.TTL < 0 {
		return grant{}, &Error{Op: op, Status: a.status, kind: ErrAnswer}
	}
	return grant{token: token, seconds: in.Data.TTL, renewable: in.Data.Renewable}, nil
}

// renew asks for more time for the token.
func (c *client) renew(ctx context.Context, token credential.Secret) (grant, error) {
	const op = "renew the token"
	a, err := c.with(ctx, token, call{op: op, method: http.MethodPost, path: "auth/token/renew-self", body: []byte("{}")})
	if err != nil {
		return grant{}, err
	}
	return grantOf(op, a)
}

// with sends a request with the token.
func (c *client) with(ctx context.Context, token credential.Secret, r call) (*answer, error) {
	var t string
	if err := token.Use(func(b []byte) error {
		t = string(b) // net/http wants its headers as strings
		return nil
	}); err != nil {
		return nil, err
	}
	return c.do(ctx, t, r)
}

// text is a JSON string as bytes that can be wiped.
type text []byte

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	var err error
	*t, err = jsontext.AppendUnquote((*t)[:0], b)
	return err
}
