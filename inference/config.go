package inference

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance/strictyaml"
)

// A Config says which models exist and who serves them. It grants nothing:
// policy does.
type Config struct {
	Backends []Backend `yaml:"backends"`
	// Routes are names that several models answer, one for the other. They may
	// also be names of models: then it is the route that answers.
	Routes []Route `yaml:"routes"`
	// Retry, Breaker and Timeouts hold for all; routes and backends may say
	// otherwise.
	Retry    Retry    `yaml:"retry"`
	Breaker  Breaker  `yaml:"breaker"`
	Timeouts Timeouts `yaml:"timeouts"`
}

// A Backend is one model provider. Models are matched exactly; one model may be
// served by one backend of each protocol.
type Backend struct {
	// Name is the provider in policy: [a-z0-9-], 1 to 32 characters. Required.
	Name string `yaml:"name"`
	// Preset names an entry of [Presets] that fills in what is left empty here.
	Preset string `yaml:"preset"`
	// Protocol is what the backend speaks. Empty: the preset's, else [OpenAI].
	Protocol Protocol `yaml:"protocol"`
	// Protocols, in place of Protocol, are all that it speaks: its models are
	// served in each. The first says how the key is sent.
	Protocols []Protocol `yaml:"protocols"`
	// BaseURL is what comes before "/chat/completions", "/messages" or
	// "/models/M:generateContent", such as https://api.openai.com/v1 or https://api.anthropic.com/v1. With a
	// credential it must be https, or http to a literal loopback address.
	BaseURL string `yaml:"base_url"`
	// Credential is the name of the key in the vault. Empty: none is sent.
	Credential string `yaml:"credential"`
	// Models are the names that the backend serves, as it writes them. Required.
	Models []string `yaml:"models"`
	// Aliases are further names by which clients may ask for one of Models.
	// Policy sees, and the backend gets, the model's real name.
	Aliases map[string]string `yaml:"aliases"`
	// Timeouts of this backend; what is left empty is the configuration's.
	Timeouts Timeouts `yaml:"timeouts"`
}

// maxConfig bounds a configuration file, far above what one needs.
const maxConfig = 256 << 10

// ParseConfig reads a configuration from strict YAML: an unknown or repeated
// key, an empty value, an alias or a second document is an error that names
// file, line and column. Name is used in errors only.
func ParseConfig(name string, data []byte) (Config, error) {
	var cfg Config
	if err := strictyaml.Unmarshal(name, data, maxConfig, &cfg); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if _, err := compile(cfg, nil); err != nil {
		return Config{}, fmt.Errorf("%w (in %s)", err, name)
	}
	return cfg, nil
}

// A Preset is what is known about a provider.
type Preset struct {
	Protocol Protocol
	BaseURL  string // empty: the host must say
	// KeyHeader is the header that carries the key; empty: a bearer token.
	KeyHeader string
}

// Presets returns what is known about common providers, by name.
func Presets() map[string]Preset {
	return map[string]Preset{
		"anthropic":  {Protocol: Anthropic, BaseURL: "https://api.anthropic.com/v1", KeyHeader: "X-Api-Key"},
		"openai":     {Protocol: OpenAI, BaseURL: "https://api.openai.com/v1"},
		"gemini":     {Protocol: Gemini, BaseURL: "https://generativelanguage.googleapis.com/v1beta", KeyHeader: "X-Goog-Api-Key"},
		"nvidia":     {Protocol: OpenAI, BaseURL: "https://integrate.api.nvidia.com/v1"},
		"openrouter": {Protocol: OpenAI, BaseURL: "https://openrouter.ai/api/v1"},
		"ollama":     {Protocol: OpenAI, BaseURL: "http://127.0.0.1:11434/v1"},
		"vllm":       {Protocol: OpenAI, BaseURL: "http://127.0.0.1:8000/v1"},
	}
}

// Binding returns where the backend's key may go and how it is sent, for
// binding the credential in the vault.
func (b Backend) Binding() (credential.Binding, error) {
	u, err := b.resolve()
	if err != nil {
		return credential.Binding{}, err
	}
	header := Presets()[b.Preset].KeyHeader
	if b.Preset == "" && !b.Protocol.isOpenAI() {
		header = Presets()[string(b.Protocol)].KeyHeader
	}
	origin, err := credential.Origin(u.String())
	if err != nil {
		return credential.Binding{}, err
	}
	if header != "" {
		return credential.Binding{Origin: origin, Scheme: credential.Header(header, "")}, nil
	}
	return credential.Binding{Origin: origin, Scheme: credential.Bearer()}, nil
}

// resolve fills in the preset and checks everything but the models.
func (b *Backend) resolve() (*url.URL, error) {
	if b.Preset != "" {
		p, ok := Presets()[b.Preset]
		if !ok {
			return nil, fmt.Errorf("preset %q is not known: use one of %s", b.Preset, strings.Join(presetNames(), ", "))
		}
		if b.Protocol == "" && len(b.Protocols) == 0 {
			b.Protocol = p.Protocol
		}
		if b.BaseURL == "" {
			b.BaseURL = p.BaseURL
		}
	}
	switch {
	case len(b.Protocols) == 0:
		if b.Protocol == "" {
			b.Protocol = OpenAI
		}
		b.Protocols = []Protocol{b.Protocol}
	case b.Protocol != "" && !slices.Contains(b.Protocols, b.Protocol):
		return nil, fmt.Errorf("protocol %q is not among protocols", b.Protocol)
	case b.Protocol == "":
		b.Protocol = b.Protocols[0]
	}
	for i, p := range b.Protocols {
		if !slices.Contains(protocols, p) {
			return nil, fmt.Errorf("protocol %q is not known: use openai, openai-responses, anthropic or gemini", p)
		}
		if slices.Contains(b.Protocols[:i], p) {
			return nil, fmt.Errorf("protocol %q appears twice", p)
		}
	}
	if b.BaseURL == "" {
		return nil, errors.New("base_url is missing")
	}
	u, err := url.Parse(b.BaseURL)
	switch {
	case err != nil:
		return nil, errors.New("base_url is not a URL") // the parser's error repeats the URL, which may hold a secret
	case u.User != nil:
		return nil, errors.New("base_url must not hold a user or password: put the key into the vault")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("base_url must not have a query or fragment")
	case u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("base_url must be an absolute http or https URL")
	}
	if b.Credential != "" {
		if _, err := credential.Origin(b.BaseURL); err != nil {
			return nil, fmt.Errorf("base_url cannot get a credential: %w", err)
		}
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

func presetNames() []string {
	var names []string
	for n := range Presets() {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	modelRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$`)
)
