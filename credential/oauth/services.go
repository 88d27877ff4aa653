package oauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// GitHubAppOptions are what can be left out of [GitHubApp].
type GitHubAppOptions struct {
	// API is the root of GitHub's REST API. Empty means https://api.github.com;
	// GitHub Enterprise Server has it at https://HOST/api/v3.
	API string
}

// GitHubApp is the access of an app's installation. The secret is the app's
// private key (PEM). Scopes are words of two kinds, "repository:NAME" and
// "PERMISSION:LEVEL" such as "contents:read", and the token is good for those
// only. A lease that names no word of a kind gets the binding's of that kind.
// With a binding that has none, it is all that the app was installed with.
func GitHubApp(appID, installationID string, opts *GitHubAppOptions) credential.Exchanger {
	s := gitHubApp{credential.Bearer(), appID, installationID, "https://api.github.com"}
	if opts != nil {
		s.api = cmp.Or(opts.API, s.api)
	}
	return s
}

type gitHubApp struct {
	credential.Scheme
	app, installation, api string
}

func (gitHubApp) Subject(a audit.Actor) string { return everybody(a) }

func (s gitHubApp) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	if s.app == "" || s.installation == "" || strings.Trim(s.installation, "0123456789") != "" {
		return credential.Token{}, fmt.Errorf("%w: an app needs its id and the number of an installation", errConfig)
	}
	ask, err := gitHubScopes(x)
	if err != nil {
		return credential.Token{}, err
	}
	endpoint := strings.TrimSuffix(s.api, "/") + "/app/installations/" + s.installation + "/access_tokens"
	if _, err := credential.Origin(endpoint); err != nil {
		return credential.Token{}, err
	}
	// A minute back, for clocks that differ, and at most 10 minutes in all.
	jwt, err := sign(x, "", map[string]any{
		"iss": s.app, "iat": x.Now.Add(-time.Minute).Unix(), "exp": x.Now.Add(5 * time.Minute).Unix(),
	})
	if err != nil {
		return credential.Token{}, err
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return credential.Token{}, fmt.Errorf("oauth: github: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return credential.Token{}, fmt.Errorf("%w: the API is no URL", errConfig)
	}
	req.Header.Set("Authorization", "Bearer "+jwt)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	m, status, err := exchange(client(x), req)
	if err != nil {
		return credential.Token{}, err
	}
	if status != http.StatusCreated {
		// The key is not accepted, or the installation is gone or suspended.
		return credential.Token{}, &Error{Issuer: s.api, Status: status, reauth: status == 401 || status == 403 || status == 404}
	}
	token, err := m.secret("token")
	if err != nil {
		return credential.Token{}, err
	}
	var expires time.Time
	var granted map[string]string
	var repositories []struct {
		Name string `json:"name"`
	}
	for name, v := range map[string]any{"expires_at": &expires, "permissions": &granted, "repositories": &repositories} {
		if err := m.read(name, v); err != nil {
			return credential.Token{}, err
		}
	}
	t := credential.Token{Value: token, Expires: expires}
	for name, level := range granted {
		asked := ask.Permissions[name]
		if name == "metadata" {
			asked = cmp.Or(asked, "read") // which comes with every token
		}
		if len(ask.Permissions) > 0 && !within(level, asked) {
			return credential.Token{}, fmt.Errorf("%w: it grants more than was asked for", ErrResponse)
		}
		t.Scopes = append(t.Scopes, name+":"+level)
	}
	for _, r := range repositories {
		if len(ask.Repositories) > 0 && !slices.Contains(ask.Repositories, r.Name) {
			return credential.Token{}, fmt.Errorf("%w: it grants more than was asked for", ErrResponse)
		}
		t.Scopes = append(t.Scopes, "repository:"+r.Name)
	}
	slices.Sort(t.Scopes)
	return t, nil
}

// within reports whether a permission's level is no more than the one that was
// asked for.
func within(level, asked string) bool {
	levels := []string{"read", "write", "admin"}
	i := slices.Index(levels, level)
	return level == asked || i >= 0 && i <= slices.Index(levels, asked)
}

// gitHubAsk is the body of a request for an installation's token.
type gitHubAsk struct {
	Repositories []string          `json:"repositories,omitempty"`
	Permissions  map[string]string `json:"permissions,omitempty"`
}

func gitHubScopes(x credential.Exchange) (gitHubAsk, error) {
	read := func(scopes []string) (ask gitHubAsk, err error) {
		for _, s := range scopes {
			kind, name, ok := strings.Cut(s, ":")
			switch {
			case !ok || kind == "" || name == "":
				return ask, fmt.Errorf("%w: scope %.40q is neither repository:NAME nor PERMISSION:LEVEL", errConfig, s)
			case kind == "repository":
				ask.Repositories = append(ask.Repositories, name)
			default:
				if ask.Permissions == nil {
					ask.Permissions = make(map[string]string)
				}
				if old, twice := ask.Permissions[kind]; twice && old != name {
					return ask, fmt.Errorf("%w: permission %q has two levels", errConfig, kind)
				}
				ask.Permissions[kind] = name
			}
		}
		return ask, nil
	}
	bound, err := read(x.Bound)
	if err != nil {
		return gitHubAsk{}, err
	}
	ask, err := read(x.Scopes)
	if err != nil {
		return gitHubAsk{}, err
	}
	if len(ask.Repositories) == 0 {
		ask.Repositories = bound.Repositories
	}
	if len(ask.Permissions) == 0 {
		ask.Permissions = bound.Permissions
	}
	return ask, nil
}

// GoogleOptions are what can be left out of [GoogleServiceAccount].
type GoogleOptions struct {
	// User is whom the account acts for, if the domain has delegated that.
	User string
	// TokenEndpoint is Google's. What a key file says about it does not count.
	TokenEndpoint string
}

// googleToken is where Google gives tokens.
const googleToken = "https://oauth2.googleapis.com/token"

// GoogleServiceAccount is the access of a service account. The secret is its
// key file (JSON).
func GoogleServiceAccount(opts *GoogleOptions) credential.Exchanger {
	s := google{Scheme: credential.Bearer()}
	if opts != nil {
		s.GoogleOptions = *opts
	}
	s.TokenEndpoint = cmp.Or(s.TokenEndpoint, googleToken)
	return s
}

type google struct {
	credential.Scheme
	GoogleOptions
}

func (google) Subject(a audit.Actor) string { return everybody(a) }

// keyFile reads a service account's key file.
func keyFile(b []byte) (email, keyID string, key credential.Secret, err error) {
	m, err := object(b)
	if err != nil {
		return "", "", credential.Secret{}, errKeyFile
	}
	kind, _ := m.text("type")
	email, _ = m.text("client_email")
	keyID, _ = m.text("private_key_id")
	pem, _ := m.text("private_key")
	if kind != "service_account" || email == "" || pem == "" {
		return "", "", credential.Secret{}, errKeyFile
	}
	return email, keyID, credential.NewSecret([]byte(pem)), nil
}

var errKeyFile = fmt.Errorf("%w: it is no key file of a service account", credential.ErrScheme)

// Parts implements [credential.Divider].
func (google) Parts(secret []byte) ([]credential.Secret, error) {
	_, _, key, err := keyFile(secret)
	return []credential.Secret{key}, err
}

func (s google) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	var email, keyID string
	var key credential.Secret
	err := x.Secret.Use(func(b []byte) (err error) {
		email, keyID, key, err = keyFile(b)
		return err
	})
	if err != nil {
		return credential.Token{}, err
	}
	defer key.Destroy()
	if _, err := credential.Origin(s.TokenEndpoint); err != nil {
		return credential.Token{}, err
	}
	claims := map[string]any{
		"iss": email, "aud": s.TokenEndpoint, "scope": strings.Join(x.Scopes, " "),
		"iat": x.Now.Unix(), "exp": x.Now.Add(assertionLife).Unix(),
	}
	if s.User != "" {
		claims["sub"] = s.User
	}
	x.Secret = key
	jwt, err := sign(x, keyID, claims)
	if err != nil {
		return credential.Token{}, err
	}
	form := url.Values{"grant_type": {grantJWTBearer}, "assertion": {jwt}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return credential.Token{}, fmt.Errorf("%w: the token endpoint is no URL", errConfig)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a, err := send(client(x), req, s.TokenEndpoint)
	if err != nil {
		return credential.Token{}, err
	}
	return a.asToken(x)
}
