package credential

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// A BindingSpec is a [Binding] as data: in a catalogue, in a configuration, on
// an operator's command line. It holds no secret. The fields that a type does
// not use must be empty.
//
//	type                        fields
//	bearer                      -
//	header                      name; format
//	basic                       user
//	query_last_resort           name
//	form                        name
//	aws_sigv4                   region, service; unsigned_payload
//	env                         name
//	descriptor                  name
//	oauth_client_credentials    issuer, client_id; auth, resource, token_endpoint
//	oauth_refresh_token         issuer, client_id; auth, resource, token_endpoint
//	oauth_authorization_code    issuer, client_id; auth, resource, token_endpoint, authorization_endpoint
//	oauth_token_exchange        issuer, client_id; auth, resource, token_endpoint
//	oauth_jwt_bearer            issuer, client_id; auth, resource, token_endpoint
//	oauth_id_jag                issuer, client_id, identity_provider; auth, resource, token_endpoint
//	github_app                  app_id, installation_id
//	google_service_account      -; user
//
// Those after the semicolon may be left out. [BindingSpec.Binding] makes the
// bindings of the first block; the package oauth makes all.
type BindingSpec struct {
	// Origin is where the secret may go: scheme://host[:port], or
	// stdio://<server> for a child process.
	Origin string `json:"origin" yaml:"origin"`
	// Type names the scheme.
	Type string `json:"type" yaml:"type"`
	// Scopes are the least that the server's tools need.
	Scopes []string `json:"scopes,omitempty" yaml:"scopes,omitempty"`

	// Name is that of the header, parameter, field or environment variable.
	Name string `json:"name,omitempty" yaml:"name,omitempty"`
	// Format is a header's value with {secret} in it; empty means {secret}.
	Format string `json:"format,omitempty" yaml:"format,omitempty"`
	// User is the user's name of basic, or whom a service account acts for.
	User string `json:"user,omitempty" yaml:"user,omitempty"`

	// Region and Service are AWS's words.
	Region  string `json:"region,omitempty" yaml:"region,omitempty"`
	Service string `json:"service,omitempty" yaml:"service,omitempty"`
	// UnsignedPayload leaves the body out of what AWS SigV4 signs.
	UnsignedPayload bool `json:"unsigned_payload,omitempty" yaml:"unsigned_payload,omitempty"`

	// Issuer is the authorization server's issuer identifier (RFC 8414). The
	// secret is for that server and no other.
	Issuer string `json:"issuer,omitempty" yaml:"issuer,omitempty"`
	// ClientID is who the host is at that server.
	ClientID string `json:"client_id,omitempty" yaml:"client_id,omitempty"`
	// Auth is how the client proves that: client_secret_basic (the default),
	// client_secret_post, private_key_jwt, tls_client_auth or none. That of
	// oauth_jwt_bearer, whose secret is a key that signs, is none by default. No
	// method sends a private key.
	Auth string `json:"auth,omitempty" yaml:"auth,omitempty"`
	// Resource is the protected resource's identifier (RFC 8707); empty means
	// the origin.
	Resource string `json:"resource,omitempty" yaml:"resource,omitempty"`
	// TokenEndpoint and AuthorizationEndpoint are for servers that publish no
	// metadata.
	TokenEndpoint         string `json:"token_endpoint,omitempty" yaml:"token_endpoint,omitempty"`
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty" yaml:"authorization_endpoint,omitempty"`
	// IdentityProvider is the issuer that gives ID-JAGs.
	IdentityProvider string `json:"identity_provider,omitempty" yaml:"identity_provider,omitempty"`

	// AppID and InstallationID are GitHub's numbers.
	AppID          string `json:"app_id,omitempty" yaml:"app_id,omitempty"`
	InstallationID string `json:"installation_id,omitempty" yaml:"installation_id,omitempty"`
}

// The types of a [BindingSpec].
const (
	TypeBearer                 = "bearer"
	TypeHeader                 = "header"
	TypeBasic                  = "basic"
	TypeQuery                  = "query_last_resort"
	TypeForm                   = "form"
	TypeSigV4                  = "aws_sigv4"
	TypeEnv                    = "env"
	TypeDescriptor             = "descriptor"
	TypeOAuthClientCredentials = "oauth_client_credentials"
	TypeOAuthRefreshToken      = "oauth_refresh_token"
	TypeOAuthAuthorizationCode = "oauth_authorization_code"
	TypeOAuthTokenExchange     = "oauth_token_exchange"
	TypeOAuthJWTBearer         = "oauth_jwt_bearer"
	TypeOAuthIDJAG             = "oauth_id_jag"
	TypeGitHubApp              = "github_app"
	TypeGoogleServiceAccount   = "google_service_account"
)

// ErrSpec is returned for a [BindingSpec] that says too little, too much or
// nothing known.
var ErrSpec = errors.New("credential: the binding is not well formed")

// The limits of a [BindingSpec].
const (
	maxSpec       = 16 << 10 // bytes of JSON
	maxSpecField  = 1024     // bytes of a field
	maxSpecScopes = 64
)

// specTypes says which fields a type needs and which it may have, besides
// origin, type, scopes.
var specTypes = map[string]struct{ needs, may string }{
	TypeBearer:                 {},
	TypeHeader:                 {"name", "format"},
	TypeBasic:                  {"user", ""},
	TypeQuery:                  {"name", ""},
	TypeForm:                   {"name", ""},
	TypeSigV4:                  {"region service", "unsigned_payload"},
	TypeEnv:                    {"name", ""},
	TypeDescriptor:             {"name", ""},
	TypeOAuthClientCredentials: {"issuer client_id", "auth resource token_endpoint"},
	TypeOAuthRefreshToken:      {"issuer client_id", "auth resource token_endpoint"},
	TypeOAuthAuthorizationCode: {"issuer client_id", "auth resource token_endpoint authorization_endpoint"},
	TypeOAuthTokenExchange:     {"issuer client_id", "auth resource token_endpoint"},
	TypeOAuthJWTBearer:         {"issuer client_id", "auth resource token_endpoint"},
	TypeOAuthIDJAG:             {"issuer client_id identity_provider", "auth resource token_endpoint"},
	TypeGitHubApp:              {"app_id installation_id", ""},
	TypeGoogleServiceAccount:   {"", "user"},
}

// ParseBindingSpec reads one JSON object of at most 16 KiB and validates it.
// Unknown and repeated members are errors. All errors match [ErrSpec].
func ParseBindingSpec(data []byte) (BindingSpec, error) {
	var s BindingSpec
	if err := strictJSON(data, &s); err != nil {
		return BindingSpec{}, fmt.Errorf("%w: %v", ErrSpec, err)
	}
	if err := s.Validate(); err != nil {
		return BindingSpec{}, err
	}
	return s, nil
}

// Validate returns an error that matches [ErrSpec] unless the spec is complete
// and within the limits. What was read from YAML is validated by it.
func (s BindingSpec) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrSpec, fmt.Sprintf(format, args...))
	}
	rule, ok := specTypes[s.Type]
	if !ok {
		return bad("type %.40q is not known", s.Type)
	}
	needs, may := strings.Fields(rule.needs), strings.Fields(rule.may)
	for _, f := range s.fields() {
		if len(f.value) > maxSpecField || !utf8.ValidString(f.value) || strings.ContainsFunc(f.value, isControl) {
			return bad("%s is longer than %d bytes or holds control characters", f.name, maxSpecField)
		}
		if f.value == "" && slices.Contains(needs, f.name) {
			return bad("type %s needs %s", s.Type, f.name)
		}
		if f.value != "" && !slices.Contains(needs, f.name) && !slices.Contains(may, f.name) {
			return bad("type %s has no %s", s.Type, f.name)
		}
	}
	if len(s.Scopes) > maxSpecScopes {
		return bad("more than %d scopes", maxSpecScopes)
	}
	for _, scope := range s.Scopes {
		// RFC 6749, 3.3: printable ASCII without space, quote and backslash.
		if scope == "" || len(scope) > maxSpecField || strings.ContainsFunc(scope, func(r rune) bool {
			return r <= ' ' || r > '~' || r == '"' || r == '\\'
		}) {
			return bad("scope %.40q", scope)
		}
	}
	if _, err := bareOrigin(s.Origin); err != nil {
		return bad("%v", err)
	}
	if process := s.Type == TypeEnv || s.Type == TypeDescriptor; process != strings.HasPrefix(s.Origin, processScheme+"://") {
		return bad("type %s and origin %s do not go together", s.Type, s.Origin)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

type specField struct{ name, value string }

// fields lists what specTypes speaks of.
func (s BindingSpec) fields() []specField {
	unsigned := ""
	if s.UnsignedPayload {
		unsigned = "true"
	}
	return []specField{
		{"name", s.Name}, {"format", s.Format}, {"user", s.User},
		{"region", s.Region}, {"service", s.Service}, {"unsigned_payload", unsigned},
		{"issuer", s.Issuer}, {"client_id", s.ClientID}, {"auth", s.Auth}, {"resource", s.Resource},
		{"token_endpoint", s.TokenEndpoint}, {"authorization_endpoint", s.AuthorizationEndpoint},
		{"identity_provider", s.IdentityProvider},
		{"app_id", s.AppID}, {"installation_id", s.InstallationID},
	}
}

// Binding makes the binding of a spec whose scheme needs no exchange. For the
// others it returns an error that matches [ErrSpec] and says so.
func (s BindingSpec) Binding() (Binding, error) {
	if err := s.Validate(); err != nil {
		return Binding{}, err
	}
	b := Binding{Origin: s.Origin, Scopes: s.Scopes}
	switch s.Type {
	case TypeBearer:
		b.Scheme = Bearer()
	case TypeHeader:
		format := s.Format
		if format == "" {
			format = secretMark
		}
		if strings.Count(format, secretMark) != 1 {
			return Binding{}, fmt.Errorf("%w: format must hold %s once", ErrSpec, secretMark)
		}
		b.Scheme = HeaderFormat(s.Name, format)
	case TypeBasic:
		b.Scheme = Basic(s.User)
	case TypeQuery:
		b.Scheme = LastResortQuery(s.Name)
	case TypeForm:
		b.Scheme = Form(s.Name)
	case TypeSigV4:
		b.Scheme = SigV4(s.Region, s.Service, &SigV4Options{UnsignedPayload: s.UnsignedPayload})
	case TypeEnv:
		b.Scheme = Env(s.Name)
	case TypeDescriptor:
		b.Scheme = Descriptor(s.Name)
	default:
		return Binding{}, fmt.Errorf("%w: type %s is made by the package credential/oauth", ErrSpec, s.Type)
	}
	return b, nil
}

// strictJSON reads one JSON object of at most maxSpec bytes into a struct. Members
// that it does not have, in that very case, or that occur twice are errors.
func strictJSON(data []byte, v any) error {
	if len(data) > maxSpec {
		return fmt.Errorf("more than %d bytes", maxSpec)
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	if err := plainMembers(data, memberNames(reflect.TypeOf(v).Elem())); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// memberNames returns the names of a struct's members in JSON.
func memberNames(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, cmp.Or(name, f.Name))
	}
	return names
}

// plainMembers returns an error unless data is one flat JSON object whose
// members have these names, each at most once. encoding/json would take the last
// of two, and names in any case.
func plainMembers(data []byte, names []string) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return errors.New("not JSON")
		}
		name, _ := t.(string)
		if seen[name] || !slices.Contains(names, name) {
			return fmt.Errorf("member %.40q is repeated or not known", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return errors.New("not JSON")
		}
		if len(value) > 0 && value[0] == '{' || string(value) == "null" {
			return fmt.Errorf("member %.40q is an object or null", name)
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("not JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	return nil
}
