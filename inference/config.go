package inference

import (
	"errors"
	"fmt"
	"regexp"

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
	// Spend is what models cost, and how much of them agents may use.
	Spend Spend `yaml:"spend"`
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
	// Vars are filled into {names} in BaseURL, such as the region or the project.
	Vars map[string]string `yaml:"vars"`
	// Auth is how the key goes out, if not as the preset says or as is usual in
	// the protocol: a type of [credential.BindingSpec], such as bearer or
	// aws_sigv4. It is for [Backend.Binding] only: the vault's binding decides.
	Auth string `yaml:"auth"`
	// Credential is the name of the key in the vault. Empty: none is sent.
	Credential string `yaml:"credential"`
	// Models are the names that the backend serves, as it writes them. Required.
	Models []string `yaml:"models"`
	// Aliases are further names by which clients may ask for one of Models.
	// Policy sees, and the backend gets, the model's real name.
	Aliases map[string]string `yaml:"aliases"`
	// Translate says for which other protocols a backend of chat completions
	// stands in.
	Translate Translate `yaml:"translate"`
	// Timeouts of this backend; what is left empty is the configuration's.
	Timeouts Timeouts `yaml:"timeouts"`
	// PassTrace tells the backend the trace of each call, in the header
	// traceparent. It is for backends of the host's own: others learn nothing of
	// its traces.
	PassTrace bool `yaml:"pass_trace"`

	wire wireForm
}

// maxConfig bounds a configuration file, far above what one needs.
const maxConfig = 256 << 10

// ParseConfig reads a configuration from strict YAML: an unknown or repeated
// key, an empty value, an alias, a second document or a value that is not valid
// is an error that names file, line and column. Name is used in errors only.
func ParseConfig(name string, data []byte) (Config, error) {
	var cfg Config
	if err := strictyaml.Unmarshal(name, data, maxConfig, &cfg); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if _, err := compile(cfg, nil); err != nil {
		var m *misplaced
		if !errors.As(err, &m) {
			return Config{}, err
		}
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, strictyaml.Locate(name, data, maxConfig, m.Error(), m.path...))
	}
	return cfg, nil
}

// misplaced is an error about one part of a configuration.
type misplaced struct {
	error
	path []any // see strictyaml.Locate
}

// about says which part of a configuration err is about. Err may be nil.
func about(err error, path ...any) error {
	if err == nil {
		return nil
	}
	if m := (*misplaced)(nil); errors.As(err, &m) {
		return &misplaced{err, append(path, m.path...)}
	}
	return &misplaced{err, path}
}

func (m *misplaced) Unwrap() error { return m.error }

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	modelRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$`)
)
