package inference

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/credential"
)

// A Route is a name that clients ask for, and the models that answer it. Policy
// sees the model that a call really goes to, and is asked about it before
// anything is sent there; models that it does not permit are passed over. A
// client gets the answer of one target only.
type Route struct {
	// Model is the name that clients ask for. Required.
	Model string `yaml:"model"`
	// Targets are 1 to 16 models. In each protocol those answer whose backend
	// speaks it. Required.
	Targets []Target `yaml:"targets"`
	// Retry, if set, holds for this route.
	Retry *Retry `yaml:"retry"`
}

// A Target is one of the models of a [Route].
type Target struct {
	// Backend and Model name one of the models of a backend. Required.
	Backend string `yaml:"backend"`
	Model   string `yaml:"model"`
	// Priority says who is asked first: the lowest number. Others are asked when
	// all before them could not answer.
	Priority int `yaml:"priority"`
	// Weight is how often, among equals in priority, the target is the first to be
	// asked. Zero means 1; at most 1,000,000.
	Weight int `yaml:"weight"`
}

// routes is a checked Config in the form that requests need. It is immutable,
// but for the breakers of its targets.
type routes struct {
	byModel map[routeKey]*route
	listed  []*route // in the order of the configuration
	spend   Spend
}

type routeKey struct {
	protocol Protocol
	model    string
}

// A route leads from a name that a client may ask for to the models that answer.
type route struct {
	asked    string // as the client writes it
	protocol Protocol
	targets  []*target
	retry    Retry
}

// attempts is how many requests a call may make.
func (rt *route) attempts() int {
	if n := rt.retry.Attempts; n > 0 {
		return min(n, maxAttempts)
	}
	return min(len(rt.targets), maxAttempts)
}

// compile checks cfg. The state of breakers is taken from old, which may be nil,
// where the target is the same.
func compile(cfg Config, old *routes) (*routes, error) {
	c := compiler{
		cfg: cfg, routes: &routes{byModel: map[routeKey]*route{}},
		backends: map[string]*Backend{}, targets: map[targetKey]*target{}, breakers: old.breakers(),
	}
	if err := c.compile(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := cfg.Spend.validate(); err != nil {
		return nil, fmt.Errorf("%w: spend: %w", ErrConfig, err)
	}
	c.routes.spend = cfg.Spend
	return c.routes, nil
}

type targetKey struct {
	backend  string
	protocol Protocol
	model    string
}

type breakerKey struct{ backend, model, base string }

// breakers returns the breakers of all targets.
func (rs *routes) breakers() map[breakerKey]*breaker {
	out := map[breakerKey]*breaker{}
	if rs != nil {
		for _, rt := range rs.listed {
			for _, t := range rt.targets {
				out[t.key()] = t.breaker
			}
		}
	}
	return out
}

func (t *target) key() breakerKey { return breakerKey{t.backend.Name, t.model, t.base} }

// A compiler makes routes of a Config.
type compiler struct {
	cfg      Config
	routes   *routes
	backends map[string]*Backend
	targets  map[targetKey]*target
	breakers map[breakerKey]*breaker
}

func (c *compiler) compile() error {
	if len(c.cfg.Backends) == 0 {
		return about(errors.New("no backends"), "backends")
	}
	if err := c.cfg.check(); err != nil {
		return err
	}
	for i := range c.cfg.Backends {
		b := c.cfg.Backends[i]
		if !nameRE.MatchString(b.Name) {
			return about(fmt.Errorf("backends[%d]: name %q must be 1 to 32 of a-z, 0-9 and -", i, b.Name), "backends", i, "name")
		}
		if c.backends[b.Name] != nil {
			return about(fmt.Errorf("backend %q appears twice", b.Name), "backends", i, "name")
		}
		c.backends[b.Name] = &b
		if err := c.addTargets(&b); err != nil {
			return about(fmt.Errorf("backend %q: %w", b.Name, err), "backends", i)
		}
	}
	names := map[string]bool{}
	for i, r := range c.cfg.Routes {
		if !modelRE.MatchString(r.Model) {
			return about(fmt.Errorf("routes[%d]: model name %q has characters that are not allowed", i, r.Model), "routes", i, "model")
		}
		if names[r.Model] {
			return about(fmt.Errorf("route %q appears twice", r.Model), "routes", i, "model")
		}
		names[r.Model] = true
		if err := c.addRoute(r); err != nil {
			return about(fmt.Errorf("route %q: %w", r.Model, err), "routes", i)
		}
	}
	for i := range c.cfg.Backends {
		b := c.backends[c.cfg.Backends[i].Name]
		if err := c.addModels(b, names); err != nil {
			return about(fmt.Errorf("backend %q: %w", b.Name, err), "backends", i)
		}
	}
	return nil
}

// addTargets makes a target of each model of a backend, in each protocol; they
// share a breaker.
func (c *compiler) addTargets(b *Backend) error {
	u, err := b.resolve()
	if err != nil {
		return err
	}
	if err := b.checkTranslate(); err != nil {
		return err
	}
	if len(b.Models) == 0 {
		return errors.New("models is empty: name each model that it serves")
	}
	origin := ""
	if b.Credential != "" {
		if origin, err = credential.Origin(u.String()); err != nil {
			return fmt.Errorf("base_url cannot get a credential: %w", err)
		}
	}
	for _, m := range b.Models {
		if !modelRE.MatchString(m) {
			return fmt.Errorf("model name %q has characters that are not allowed", m)
		}
		t := &target{
			backend: b, model: m, base: u.String(), origin: origin,
			weight: 1, limits: b.Timeouts.or(c.cfg.Timeouts),
		}
		rule := c.cfg.Breaker.withDefaults()
		if t.breaker = c.breakers[t.key()]; t.breaker == nil || t.breaker.rule != rule {
			t.breaker = &breaker{rule: rule}
		}
		for _, p := range b.speaks() {
			one := *t
			one.protocol, one.translated = p, slices.Contains(b.Translate.Protocols, p)
			c.targets[targetKey{b.Name, p, m}] = &one
		}
	}
	return nil
}

// addRoute makes the routes of a configured one, one in each protocol.
func (c *compiler) addRoute(r Route) error {
	if n := len(r.Targets); n == 0 || n > maxTargets {
		return fmt.Errorf("it must have 1 to %d targets", maxTargets)
	}
	retry := c.cfg.Retry
	if r.Retry != nil {
		retry = *r.Retry
		if err := retry.check(); err != nil {
			return about(err, "retry")
		}
	}
	byProtocol := map[Protocol]*route{}
	var made []*route
	for i, spec := range r.Targets {
		b := c.backends[spec.Backend]
		if b == nil {
			return about(fmt.Errorf("targets[%d]: there is no backend %q", i, spec.Backend), "targets", i)
		}
		if !slices.Contains(b.Models, spec.Model) {
			return about(fmt.Errorf("targets[%d]: %q is not in the models of %q", i, spec.Model, spec.Backend), "targets", i)
		}
		if spec.Weight < 0 || spec.Weight > maxWeight || spec.Priority < 0 {
			return about(fmt.Errorf("targets[%d]: weight must be at most %d, and neither it nor priority below zero", i, maxWeight), "targets", i)
		}
		for _, p := range b.speaks() {
			one := *c.targets[targetKey{b.Name, p, spec.Model}]
			one.weight, one.priority = max(spec.Weight, 1), spec.Priority
			rt := byProtocol[p]
			if rt == nil {
				rt = &route{asked: r.Model, protocol: p, retry: retry.withDefaults()}
				byProtocol[p] = rt
				c.routes.byModel[routeKey{p, r.Model}] = rt
				made = append(made, rt)
			}
			if slices.ContainsFunc(rt.targets, func(t *target) bool { return t.key() == one.key() }) {
				return about(fmt.Errorf("targets[%d]: %s appears twice", i, one.String()), "targets", i)
			}
			rt.targets = append(rt.targets, &one)
		}
	}
	c.routes.listed = append(c.routes.listed, made...)
	return nil
}

// addModels makes a route of each model and alias of a backend, except for names
// that are routes.
func (c *compiler) addModels(b *Backend, routed map[string]bool) error {
	put := func(asked, model string) error {
		if !modelRE.MatchString(asked) {
			return fmt.Errorf("model name %q has characters that are not allowed", asked)
		}
		if routed[asked] {
			return nil
		}
		for _, p := range b.speaks() {
			key := routeKey{p, asked}
			if other := c.routes.byModel[key]; other != nil {
				return fmt.Errorf("model %q is served by %q already: name both in a route", asked, other.targets[0].backend.Name)
			}
			rt := &route{asked: asked, protocol: p, targets: []*target{c.targets[targetKey{b.Name, p, model}]}, retry: c.cfg.Retry.withDefaults()}
			c.routes.byModel[key] = rt
			c.routes.listed = append(c.routes.listed, rt)
		}
		return nil
	}
	for _, m := range b.Models {
		if err := put(m, m); err != nil {
			return err
		}
	}
	for _, a := range slices.Sorted(maps.Keys(b.Aliases)) {
		if !slices.Contains(b.Models, b.Aliases[a]) {
			return fmt.Errorf("alias %q points to %q, which is not in models", a, b.Aliases[a])
		}
		if routed[a] {
			return fmt.Errorf("alias %q is also a route", a)
		}
		if err := put(a, b.Aliases[a]); err != nil {
			return err
		}
	}
	return nil
}

// check checks what is not about one backend or route.
func (cfg Config) check() error {
	if cfg.Breaker.Open < 0 {
		return about(errors.New("breaker: open must not be below zero"), "breaker", "open")
	}
	return about(cfg.Retry.check(), "retry")
}

func (r Retry) check() error {
	if r.Attempts < 0 || r.Attempts > maxAttempts || r.Pause < 0 || r.MaxWait < 0 {
		return fmt.Errorf("retry: attempts must be 0 to %d, and no time below zero", maxAttempts)
	}
	return nil
}

// summary is what goes on record about a configuration.
func (rs *routes) summary() map[string]string {
	var names []string
	for _, rt := range rs.listed {
		for _, t := range rt.targets {
			if !slices.Contains(names, t.backend.Name) {
				names = append(names, t.backend.Name)
			}
		}
	}
	return map[string]string{"backends": strings.Join(names, " "), "models": strconv.Itoa(len(rs.listed))}
}
