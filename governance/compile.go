package governance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"go.opentelemetry.io/otel/metric"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// Options change how a snapshot or an engine behaves. nil and the zero value
// are safe.
type Options struct {
	// Clock is asked for the time of a decision; nil is time.Now.
	Clock func() time.Time
	// Mode says whether what policies deny is denied. The zero value is Enforce.
	Mode Mode
	// Rates counts what policies with @rate permit; nil is [NewRateLimiter]. An
	// engine asks it, a snapshot alone does not.
	Rates RateLimiter
	// ErrorMode says what a policy that fails does to a decision. The zero value
	// is DenyOnForbidError.
	ErrorMode ErrorMode
	// WarningsBlock are the codes of warnings that block like errors, such as
	// "impossible"; "*" stands for all of them. See [Finding.Code].
	WarningsBlock []string
	// Signers are those whose signatures a bundle must carry. nil asks for none.
	Signers *Signers
	// MinVersion is the least [Bundle.Version] that an engine puts into force; from
	// then on it takes none below that of what is in force either, so that an old
	// bundle whose signatures still hold cannot come back. The same version may be
	// loaded again. 0 asks for no version. Reload and Promote look at it, Compile
	// and Stage do not.
	MinVersion uint64
	// Tape is given every request that the engine decided, with the decision,
	// before the door has it. It is called on the deciding goroutine, possibly
	// by many at once; what it is given is its own. nil records nothing. A tape
	// holds arguments in clear: see [Recorded].
	Tape func(Recorded)
	// FactKey keys the hashes by which values of arguments stand in records of
	// facts: at least 32 secret bytes. With it, a history can be rebuilt after a
	// restart; nil is a random key, which ends with the engine.
	FactKey []byte
	// TracerProvider is given a span for each decision of an engine, "decide
	// call_tool" or another action, of kind internal, with the attributes
	//
	//	twinward.action                call_tool, connect, …, or _OTHER
	//	twinward.resource              such as Tool::"slack__post_message"
	//	gen_ai.agent.id                who asks
	//	twinward.decision.id           as in the audit log
	//	twinward.decision.effect       allow or deny
	//	twinward.decision.cause        of a denial: policy, no-permit,
	//	                               not-in-profile, or the guard
	//	twinward.decision.reason       of a denial: see audit.Decision
	//	twinward.decision.policies     ids of those that determined it
	//	twinward.decision.obligations  kinds of those that it carries
	//	twinward.decision.errors       how many policies failed
	//	twinward.policy.hash           the snapshot
	//
	// and an event "twinward.decision.would" for each decision by policies that
	// are not applied, with twinward.decision.source, .effect and .reason and
	// twinward.policy.hash. Arguments are never in it. A denial is no error; a
	// span has the status error when there was nothing to decide with. nil asks
	// for no spans and costs nothing.
	TracerProvider oteltrace.TracerProvider
	// MeterProvider is given these metrics of an engine's decisions. nil asks for
	// none and costs nothing.
	//
	//	twinward.decision.duration  histogram in s, by twinward.action,
	//	                            twinward.decision.effect and .cause, and
	//	                            twinward.policy.hash
	//	twinward.policy.decisions   counter of decisions that a policy determined,
	//	                            by twinward.policy.id and
	//	                            twinward.decision.effect
	//	twinward.decision.flips     counter of decisions that would have had the
	//	                            other effect, by twinward.decision.source and
	//	                            the twinward.decision.effect there
	MeterProvider metric.MeterProvider
}

func (o *Options) orDefault() Options {
	if o == nil {
		return Options{}
	}
	return *o
}

func (o *Options) clock() func() time.Time {
	if o == nil || o.Clock == nil {
		return time.Now
	}
	return o.Clock
}

// A Snapshot is a compiled bundle. It is immutable, and safe for concurrent
// use.
type Snapshot struct {
	hash     string
	clock    func() time.Time
	catalog  []Server
	servers  map[string]bool
	tools    map[toolRef]*tool
	profiles []Profile
	members  map[string]string // agent → profile
	entities types.EntityMap
	policies map[types.PolicyID]*policy
	law      *law     // what is enforced
	observed *law     // what is not: nil if everything is
	whole    *law     // both together, where there is something to observe
	permits  *law     // of law, when the mode is Observe
	reads    []*reads // by the number of a tool
	mode     Mode
	errors   ErrorMode
	seen     seen
	schema   string
	facts    map[types.EntityUID]*actionFacts
	defs     map[defID]*factDef

	questions sync.Pool // *question

	digest, author, reviewer string // of the bundle's folder, for the record
	version                  uint64
}

type toolRef struct{ server, name string }

// A tool is an approved tool, ready to be decided on.
type tool struct {
	def      Tool
	pin      string
	key      string // "<server>__<name>"
	number   int    // from 0, among the tools of the snapshot
	action   types.EntityUID
	resource types.EntityUID
	label    string // the resource, printed
	args     *argument.Type
	derived  []argument.Derivation
	notes    []argument.Note  // on its schemas, for the report
	output   *argument.Output // nil: there is no output schema, or none that can be checked
}

// Compile checks a bundle as a whole and makes a snapshot of it. Everything
// that is wrong is in the report, with file, line, column and what to do; if any
// of it blocks, the snapshot is nil and the error, which wraps [ErrBundle], says
// the same. Compile reads nothing but the bundle, and the same bundle always
// gives the same hash; only the warning "expired" depends on the day.
//
// The findings have these codes. Errors that every bundle must be free of:
//
//	syntax, limit      a file that cannot be read, or is beyond a bound
//	stray-file         a file where none of its kind belongs
//	policy-id          an @id that is missing, taken, odd, or a guard's name
//	annotation         an annotation that is unknown or has an odd value
//	hidden-character   a character that a reviewer cannot see
//	unknown-entity     a tool, server or profile that is not there
//	type, unguarded    what the schema does not allow; an optional attribute
//	                   or tag that is read without a test
//	never-applies      a scope whose types do not go together
//	catalog, profile, entities, schema, fact
//	                   a mistake in these
//	signature          see [Options.Signers]
//
// Warnings, which are mistakes in all likelihood:
//
//	impossible         conditions that can never be true
//	never-applies      a scope that matches no tool of the bundle
//	no-members         a group that nobody is in
//	unknown-entity     a team or a role that is not there
//	not-in-enum        a text that the argument can never be
//	host-form          a Host in another form than requests name it in, such as
//	                   "EXAMPLE.com." or "0x7f.1"; the fix says which
//	compares-json      a text compared with an argument that reaches policy as JSON
//	denylist           a forbid that closes some values of a free text, while a
//	                   permit leaves all others open
//	unknown-label      a label that no tool gives
//	open-destructive   a permit for everybody over a destructive tool
//	mixed-script, confusable
//	                   a text that can be taken for another
//	expired            an @expires that is over
//	output-schema      an output schema that results cannot be held to
//
// Others tell, as information, how arguments reach policy.
func Compile(ctx context.Context, b Bundle, opts *Options) (snap *Snapshot, rep Report, err error) {
	defer func() {
		// cedar-go's parser and validator work on text from outside.
		if p := recover(); p != nil {
			snap, err = nil, fmt.Errorf("%w: compiling it failed: %v", ErrBundle, p)
		}
	}()
	c := compiler{bundle: b.sorted(), rep: &rep, snap: &Snapshot{clock: opts.clock(), mode: opts.orDefault().Mode, errors: opts.orDefault().ErrorMode}}
	if rep.Author, rep.Reviewer, err = opts.orDefault().Signers.verify(b); err != nil {
		rep.add(Finding{Code: "signature", Severity: SeverityError, File: SignatureFile, Message: err.Error(), Fix: "sign what is to be in force, author and reviewer both"})
		return nil, rep, err
	}
	for _, step := range []func(context.Context){c.catalog, c.profiles, c.schema, c.entities, c.policies} {
		if err := ctx.Err(); err != nil {
			return nil, rep, err
		}
		step(ctx)
		if rep.promote(opts.orDefault().WarningsBlock); rep.blocked() {
			break
		}
	}
	rep.sort()
	if err := rep.Err(); err != nil {
		return nil, rep, err
	}
	if err := ctx.Err(); err != nil {
		return nil, rep, err
	}
	c.finish()
	rep.Hash = c.snap.hash
	c.snap.digest, c.snap.author, c.snap.reviewer, c.snap.version = b.Digest(), rep.Author, rep.Reviewer, b.Version
	return c.snap, rep, nil
}

type compiler struct {
	bundle    Bundle
	snap      *Snapshot
	rep       *Report
	servers   map[string]Server
	factTypes factTypes
	schemaTxt string
	validator *cedarx.Validator
	all       []*policy

	before int // findings that are not on policies

	// What the lints remember.
	areas   map[string]*area
	areaOf  map[*policy]*area
	aboves  map[types.EntityUID][]types.EntityUID
	groups  map[types.EntityUID]bool
	insides map[types.EntityUID]map[types.EntityUID]bool
}

func (c *compiler) profiles(context.Context) {
	c.snap.profiles = c.bundle.Profiles
	c.snap.members = map[string]string{}
	seen := map[string]bool{}
	for _, p := range c.bundle.Profiles {
		p.check(c.servers, c.rep)
		if at, r := hiddenIn(p.text); at >= 0 {
			f := located("hidden-character", p.name(), "", "", hiddenMessage(r), "remove it")
			f.Line, f.Column = newLines(p.text).at(at)
			c.rep.add(f)
		}
		if seen[p.ID] {
			p.finding(c.rep, "id:", fmt.Sprintf("two profiles have the id %q", p.ID), "rename one")
		}
		seen[p.ID] = true
		for _, a := range p.Agents {
			if other, ok := c.snap.members[a]; ok {
				p.finding(c.rep, a, fmt.Sprintf("agent %q is in the profiles %q and %q", a, other, p.ID), "an agent has one profile")
			}
			c.snap.members[a] = p.ID
		}
	}
}

func (c *compiler) schema(context.Context) {
	c.facts()
	c.schemaTxt = schemaText(c.bundle.Catalog, c.snap.tools, c.factTypes)
	v, err := cedarx.NewValidator("schema", c.schemaTxt)
	if err != nil {
		c.rep.add(Finding{Code: "schema", Severity: SeverityError, Message: "the schema of the catalogue: " + err.Error(), Fix: "look for an unusual name in the catalogue"})
	}
	c.validator = v
}

func (c *compiler) entities(context.Context) {
	checkEntities(c.bundle.Entities, c.validator, c.rep)
	if c.rep.blocked() {
		return
	}
	c.snap.entities = staticEntities(c.bundle, c.snap.tools)
}

// maxFindings bounds a report on policies: whoever gets more than that has made
// one mistake many times.
const maxFindings = 1000

func (c *compiler) policies(ctx context.Context) {
	c.before = len(c.rep.Findings)
	for i := range c.bundle.Policies {
		c.all = append(c.all, parsePolicies(&c.bundle.Policies[i], c.rep)...)
		if c.full() {
			return
		}
	}
	c.rep.Policies = len(c.all)
	seen := map[string]*policy{}
	for _, p := range c.all {
		if first, twice := seen[p.id]; twice {
			c.finding(p, "policy-id", SeverityError, "", "the @id is taken by the policy at "+first.pos, "give each policy its own")
		}
		seen[p.id] = p
		if ctx.Err() != nil {
			return
		}
		if c.full() {
			return
		}
		if c.validate(p) {
			c.lint(p)
		}
	}
	if c.rep.blocked() {
		return
	}
	c.denylists()
	for _, prof := range c.bundle.Profiles {
		src := &Source{Name: prof.name(), Text: prof.ceiling()}
		c.all = append(c.all, c.generated(src, prof)...)
	}
	slices.SortFunc(c.all, func(a, b *policy) int { return strings.Compare(a.id, b.id) })
	c.snap.policies = make(map[types.PolicyID]*policy, len(c.all))
	for _, p := range c.all {
		c.snap.policies[types.PolicyID(p.id)] = p
	}
	c.snap.laws(c.all)
	c.factUse()
}

// full reports whether there are more findings on policies than that, and adds
// that it ends there.
func (c *compiler) full() bool {
	if len(c.rep.Findings)-c.before <= maxFindings {
		return false
	}
	c.rep.add(Finding{Code: "limit", Severity: SeverityError, Message: fmt.Sprintf("more than %d findings; the other policies were not looked at", maxFindings), Fix: "correct these first"})
	return true
}

// generated parses the ceiling of a profile. Its policies take the position of
// the profile's file.
func (c *compiler) generated(src *Source, prof Profile) []*policy {
	spans, scanErr := splitPolicies(src.Text)
	if scanErr != nil {
		c.rep.add(Finding{Code: "limit", Severity: SeverityError, File: src.Name, Message: "the profile is too large: " + scanErr.msg, Fix: "split it"})
		return nil
	}
	var out []*policy
	for _, sp := range spans {
		p, err := parseOne(src.Name, src.Text[sp.start:sp.end])
		if err != nil {
			panic(err) // written by us
		}
		p.profile = prof.ID
		p.pos = src.Name
		if prof.text != "" {
			p.pos = src.Name + ":1:1"
		}
		p.ref = audit.Policy{ID: p.id, Position: p.pos}
		out = append(out, p)
	}
	c.rep.Generated += len(out)
	return out
}

// finish hashes what decides: policies, schema, entities, tool pins and pinned
// types, each length-prefixed, in a fixed order.
func (c *compiler) finish() {
	h := sha256.New()
	part := func(kind string, text []byte) {
		fmt.Fprintf(h, "%s %d\n", kind, len(text))
		h.Write(text)
	}
	part("twinward-snapshot", []byte("1"))
	for _, p := range c.all {
		part("policy", p.cedar.MarshalCedar())
	}
	part("schema", []byte(c.schemaTxt))
	for _, e := range sortedEntities(c.snap.entities) {
		text, err := json.Marshal(e)
		if err != nil {
			text = fmt.Append(nil, e)
		}
		part("entity", text)
	}
	for _, s := range c.bundle.Catalog {
		for _, t := range s.Tools {
			pin := ""
			if known := c.snap.tools[toolRef{s.Name, t.Name}]; known != nil {
				pin = known.pin
			}
			text, _ := json.Marshal([]any{toolKey(s.Name, t.Name), pin, t.As, t.Derived, t.Labels, t.HiddenText}) // maps are sorted
			part("catalogue", text)
		}
		if len(s.Prompts)+len(s.Resources)+len(s.ResourceTemplates) > 0 {
			text, _ := json.Marshal([]any{s.Name, s.Prompts, s.Resources, s.ResourceTemplates})
			part("offers", text)
		}
	}
	for _, f := range c.bundle.Facts {
		part("fact", append([]byte(f.Name+" "), f.canonical(f.Counts)...))
	}
	for _, p := range c.bundle.Profiles {
		text, _ := json.Marshal([]any{p.ID, p.Servers, p.Models, p.HostedTools, p.Hosts, p.Credentials})
		part("profile", text)
	}
	if m := c.snap.errors; m != DenyOnForbidError {
		part("error-mode", []byte(m.String()))
	}
	c.snap.schema = c.schemaTxt
	c.snap.hash = hashPrefix + hex.EncodeToString(h.Sum(nil))
}

func sortedEntities(m types.EntityMap) []types.Entity {
	byName := make(map[string]types.Entity, len(m))
	for _, e := range m {
		byName[e.UID.String()] = e
	}
	out := make([]types.Entity, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}

// hashPrefix names the hash function, as it does in pins.
const hashPrefix = "sha256:"

// Hash identifies what decides, policies, schema, entities, profiles and pins:
// "sha256:" and 64 hexadecimal digits. It is "" for a nil snapshot.
func (s *Snapshot) Hash() string {
	if s == nil {
		return ""
	}
	return s.hash
}
