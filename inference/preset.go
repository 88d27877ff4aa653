package inference

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/credential"
)

// A Preset is what is known about a provider.
type Preset struct {
	// Protocols are what it speaks at BaseURL.
	Protocols []Protocol
	// BaseURL is where. What is in {braces} is taken from [Backend.Vars].
	BaseURL string
	// Auth is how the key goes out, one of the types of a
	// [credential.BindingSpec]. Others that the provider takes can be named in
	// [Backend.Auth].
	Auth string
	// KeyHeader is the header of [credential.TypeHeader].
	KeyHeader string
	// Service is AWS's name of the service, for [credential.TypeSigV4].
	Service string
	// Scope is the OAuth scope that a token needs.
	Scope string

	wire wireForm
}

// A wireForm is how a provider's requests differ from those of its protocol.
type wireForm uint8

const (
	plainForm  wireForm = iota
	vertexForm          // Anthropic's messages with the model in the path
)

const googleScope = "https://www.googleapis.com/auth/cloud-platform"

// Presets returns what is known about common providers, by name. A provider that
// speaks protocols in different places has several.
//
// No provider was asked for this table, for the tests have no network. It was
// read in August to November 2026 from the providers' own SDKs for Go
// (openai-go v3.96.0 with its packages azure and bedrock, anthropic-sdk-go
// v1.84.0 with vertex, bedrock and foundry, genai v1.77.0) and from Amazon's
// documentation; that Ollama speaks three protocols was seen with v0.17.4. The
// entries openrouter, nim, llamacpp, vllm and vertex-openai are written down from
// general knowledge and were checked against nothing.
//
// Not served are Bedrock's InvokeModel and Converse, whose streams are not
// server-sent events: Bedrock speaks the protocols of OpenAI and Anthropic
// itself.
func Presets() map[string]Preset {
	openAI := []Protocol{OpenAI}
	both := []Protocol{OpenAI, OpenAIResponses}
	claude := []Protocol{Anthropic}
	gemini := []Protocol{Gemini}
	const bearer, header, google = credential.TypeBearer, credential.TypeHeader, credential.TypeGoogleServiceAccount
	const vertex = "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}"
	return map[string]Preset{
		"anthropic":  {Protocols: claude, BaseURL: "https://api.anthropic.com/v1", Auth: header, KeyHeader: "X-Api-Key"},
		"openai":     {Protocols: both, BaseURL: "https://api.openai.com/v1", Auth: bearer},
		"gemini":     {Protocols: gemini, BaseURL: "https://generativelanguage.googleapis.com/v1beta", Auth: header, KeyHeader: "X-Goog-Api-Key"},
		"nvidia":     {Protocols: openAI, BaseURL: "https://integrate.api.nvidia.com/v1", Auth: bearer},
		"openrouter": {Protocols: openAI, BaseURL: "https://openrouter.ai/api/v1", Auth: bearer},

		"nim":      {Protocols: openAI, BaseURL: "http://127.0.0.1:8000/v1", Auth: bearer},
		"ollama":   {Protocols: []Protocol{OpenAI, OpenAIResponses, Anthropic}, BaseURL: "http://127.0.0.1:11434/v1", Auth: bearer},
		"vllm":     {Protocols: openAI, BaseURL: "http://127.0.0.1:8000/v1", Auth: bearer},
		"llamacpp": {Protocols: openAI, BaseURL: "http://127.0.0.1:8080/v1", Auth: bearer},

		// Models are named as they were deployed.
		"azure":           {Protocols: both, BaseURL: "https://{resource}.openai.azure.com/openai/v1", Auth: header, KeyHeader: "Api-Key"},
		"azure-anthropic": {Protocols: claude, BaseURL: "https://{resource}.services.ai.azure.com/anthropic/v1", Auth: header, KeyHeader: "X-Api-Key"},

		// The key is one of Bedrock's own, or with auth: aws_sigv4 that of an account.
		"bedrock":           {Protocols: both, BaseURL: "https://bedrock-runtime.{region}.amazonaws.com/openai/v1", Auth: bearer, Service: "bedrock"},
		"bedrock-anthropic": {Protocols: claude, BaseURL: "https://bedrock-mantle.{region}.api.aws/anthropic/v1", Auth: header, KeyHeader: "X-Api-Key", Service: "bedrock-mantle"},

		// The secret is the key file of a service account. In the region "global",
		// write base_url without {region}- before the host.
		"vertex":           {Protocols: gemini, BaseURL: vertex + "/publishers/google", Auth: google, Scope: googleScope},
		"vertex-openai":    {Protocols: openAI, BaseURL: vertex + "/endpoints/openapi", Auth: google, Scope: googleScope},
		"vertex-anthropic": {Protocols: claude, BaseURL: vertex + "/publishers/anthropic", Auth: google, Scope: googleScope, wire: vertexForm},
	}
}

// preset returns what is known about the backend's provider, also if that is
// only the protocol.
func (b *Backend) preset() (Preset, error) {
	if b.Preset != "" {
		p, ok := Presets()[b.Preset]
		if !ok {
			return Preset{}, fmt.Errorf("preset %q is not known: use one of %s", b.Preset, strings.Join(slices.Sorted(maps.Keys(Presets())), ", "))
		}
		return p, nil
	}
	switch b.Protocol {
	case Anthropic, Gemini:
		p := Presets()[string(b.Protocol)]
		return Preset{Auth: p.Auth, KeyHeader: p.KeyHeader}, nil
	}
	return Preset{Auth: credential.TypeBearer}, nil
}

// varRE is what can be filled into a URL without changing its form.
var varRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// fill puts vars in the place of {names}.
func fill(text string, vars map[string]string) (string, error) {
	used := 0
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if !varRE.MatchString(vars[name]) {
			return "", fmt.Errorf("vars: %s must be 1 to 63 of a-z, 0-9 and -", name)
		}
		if mark := "{" + name + "}"; strings.Contains(text, mark) {
			text = strings.ReplaceAll(text, mark, vars[name])
			used++
		}
	}
	if _, rest, ok := strings.Cut(text, "{"); ok {
		name, _, _ := strings.Cut(rest, "}")
		return "", fmt.Errorf("base_url needs %q in vars", name)
	}
	if used < len(vars) {
		return "", errors.New("vars holds more than base_url asks for")
	}
	return text, nil
}

// resolve fills in the preset and checks everything but the models.
func (b *Backend) resolve() (*url.URL, error) {
	p, err := b.preset()
	if err != nil {
		return nil, err
	}
	b.wire = p.wire
	if b.Protocol == "" && len(b.Protocols) == 0 {
		b.Protocols = p.Protocols
	}
	if err := b.resolveProtocols(); err != nil {
		return nil, err
	}
	if p.wire == vertexForm && !slices.Equal(b.Protocols, p.Protocols) {
		return nil, fmt.Errorf("the preset %q speaks anthropic only", b.Preset)
	}
	base, err := fill(cmp.Or(b.BaseURL, p.BaseURL), b.Vars)
	if err != nil {
		return nil, err
	}
	u, err := checkBase(base)
	if err != nil {
		return nil, err
	}
	if b.Credential != "" {
		if _, err := credential.Origin(base); err != nil {
			return nil, fmt.Errorf("base_url cannot get a credential: %w", err)
		}
	}
	return u, nil
}

func (b *Backend) resolveProtocols() error {
	switch {
	case len(b.Protocols) == 0:
		b.Protocols = []Protocol{cmp.Or(b.Protocol, OpenAI)}
	case b.Protocol != "" && !slices.Contains(b.Protocols, b.Protocol):
		return fmt.Errorf("protocol %q is not among protocols", b.Protocol)
	}
	b.Protocol = cmp.Or(b.Protocol, b.Protocols[0])
	for i, p := range b.Protocols {
		if !slices.Contains(protocols, p) {
			return fmt.Errorf("protocol %q is not known: use openai, openai-responses, anthropic or gemini", p)
		}
		if slices.Contains(b.Protocols[:i], p) {
			return fmt.Errorf("protocol %q appears twice", p)
		}
	}
	return nil
}

// checkBase checks a backend's URL, which may hold what it must not: no error
// repeats it.
func checkBase(base string) (*url.URL, error) {
	if base == "" {
		return nil, errors.New("base_url is missing")
	}
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, errors.New("base_url is not a URL")
	case u.User != nil:
		return nil, errors.New("base_url must not hold a user or password: put the key into the vault")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("base_url must not have a query or fragment")
	case u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("base_url must be an absolute http or https URL")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

// BindingSpec returns where the backend's key may go and how it is sent, as
// data, for binding the credential in the vault. The package credential/oauth
// makes a binding of every such spec, and [Backend.Binding] of those that need
// no exchange.
func (b Backend) BindingSpec() (credential.BindingSpec, error) {
	u, err := b.resolve()
	if err != nil {
		return credential.BindingSpec{}, err
	}
	origin, err := credential.Origin(u.String())
	if err != nil {
		return credential.BindingSpec{}, err
	}
	p, err := b.preset()
	if err != nil {
		return credential.BindingSpec{}, err
	}
	spec := credential.BindingSpec{Origin: origin, Type: cmp.Or(b.Auth, p.Auth)}
	switch spec.Type {
	case credential.TypeHeader:
		spec.Name = p.KeyHeader
	case credential.TypeSigV4:
		spec.Region, spec.Service = b.Vars["region"], p.Service
	case credential.TypeGoogleServiceAccount:
		spec.Scopes = []string{cmp.Or(p.Scope, googleScope)}
	}
	return spec, spec.Validate()
}

// Binding returns where the backend's key may go and how it is sent, for
// binding the credential in the vault. It is an error if the key has to be
// traded for a token first: see [Backend.BindingSpec].
func (b Backend) Binding() (credential.Binding, error) {
	spec, err := b.BindingSpec()
	if err != nil {
		return credential.Binding{}, err
	}
	return spec.Binding()
}
