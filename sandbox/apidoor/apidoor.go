// Package apidoor decides which requests of an agent go to an API that its host
// serves with a secret of its own: it is the authorize of a [credential.Proxy],
// by a policy engine and an audit log.
//
//	authorize := apidoor.Authorize(engine, log, "api.github.com", "github", &apidoor.Options{Agents: registry})
//	err := box.Handle("api.github.com", credential.Proxy("https://api.github.com", vault, authorize))
//
// Each request is decided twice, as the agent's: as the action connect on the
// API's Host, with the attributes host, method and path, and as use_credential on
// the secret, with server (the API's name) and purpose ("http"). Both have to be
// allowed. The intent is on disk before anything is sent, and the outcome before
// the end of the answer; a refusal is on record with its cause.
//
// Policy sees the path as it is once decoded. Of a path with an escaped slash, which
// is a part of a name to some servers and divides names to others, it sees both
// readings and has to allow both. What else servers read in different ways is refused:
// a backslash or semicolon, escaped or not, an escaped per cent sign, a control
// character, what is not UTF-8, a part that is empty, "." or "..", and a header or a
// query (_method) that names another method or path.
package apidoor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// ErrDenied is returned for a request that policy does not allow.
var ErrDenied = errors.New("apidoor: denied by policy")

// Agents ends what an agent does when it is revoked: *agentid.Registry is one.
type Agents interface {
	// Context returns a context that ends with the agent, or an error if it may not
	// act. The CancelFunc is called when the request is over.
	Context(ctx context.Context, a audit.Actor) (context.Context, context.CancelFunc, error)
}

// Options are what can be left out of [Authorize]. Nil is the zero Options.
type Options struct {
	// Agents ends the requests of an agent when it is revoked. Nil means that
	// agents cannot be revoked here.
	Agents Agents
}

// Authorize decides requests for the API named host that are to carry the named
// secret. The actor is the one that a session's door has put into the request's
// context; without one everything is refused, as it is with a nil engine or log.
// A request that is allowed and cannot be recorded is [credential.ErrNoAudit].
// It may be called by many requests at once.
func Authorize(engine *governance.Engine, log audit.Recorder, host, secret string, opts *Options) credential.Authorize {
	d := door{engine: engine, log: audit.OrRefuse(log), host: host, secret: secret}
	if opts != nil {
		d.agents = opts.Agents
	}
	return d.authorize
}

type door struct {
	engine       *governance.Engine
	log          audit.Recorder
	host, secret string
	agents       Agents
}

func (d door) authorize(r *http.Request) (_ credential.Use, err error) {
	ctx := r.Context()
	at := audit.Event{
		Door: audit.DoorCompute, Action: "connect", Resource: "Host::" + strconv.Quote(d.host),
		Actor: audit.ActorFrom(ctx), Trace: string(audit.TraceOf(r.Header)),
	}
	if at.Actor.IsZero() {
		return credential.Use{}, d.refuse(ctx, at, audit.Refusal(audit.NewID(), audit.GuardNoActor), audit.ErrNoActor)
	}
	if guard := ambiguous(r); guard != "" {
		return credential.Use{}, d.refuse(ctx, at, audit.Refusal(audit.NewID(), guard), fmt.Errorf("%w: %s", ErrDenied, guard))
	}
	life, over := ctx, context.CancelFunc(func() {})
	if d.agents != nil {
		if life, over, err = d.agents.Context(ctx, at.Actor); err != nil {
			return credential.Use{}, d.refuse(ctx, at, audit.Refusal(audit.NewID(), audit.GuardRevoked), err)
		}
	}
	defer func() {
		if err != nil {
			over()
		}
	}()
	connect := func(path string) (governance.Decision, error) {
		return d.decide(ctx, at, "connect", d.host, map[string]any{"host": d.host, "method": r.Method, "path": path})
	}
	if written := slashesWritten(r); written != r.URL.Path {
		also, err := connect(written)
		if err != nil {
			return credential.Use{}, err
		}
		also.Settle(governance.Result{}) // it is one act
	}
	reach, err := connect(r.URL.Path)
	if err != nil {
		return credential.Use{}, err
	}
	key, err := d.decide(ctx, at, "use_credential", d.secret, map[string]any{"server": d.host, "purpose": "http"})
	if err != nil {
		reach.Settle(governance.Result{})
		return credential.Use{}, err
	}
	call, err := d.log.Begin(ctx, audit.Intent{
		Door: at.Door, Action: reach.Action, Resource: reach.Resource, Actor: at.Actor, Decision: reach.Decision,
		Credential: &audit.CredentialUse{Name: d.secret, Decision: key.Decision}, Trace: at.Trace,
	})
	if err != nil {
		reach.Settle(governance.Result{})
		key.Settle(governance.Result{})
		return credential.Use{}, fmt.Errorf("%w: %w", credential.ErrNoAudit, err)
	}
	return credential.Use{
		Lease:   credential.LeaseRequest{Actor: at.Actor, Credential: d.secret, Purpose: "http", Decision: key.ID},
		Event:   audit.Event{Door: at.Door, Action: reach.Action, Resource: reach.Resource, Trace: at.Trace},
		Log:     d.log,
		Context: life,
		End: func(ctx context.Context, out audit.Outcome) error {
			defer over()
			if out.Status == audit.StatusCancelled && errors.Is(context.Cause(life), audit.ErrRevoked) {
				out.ErrorCode = audit.GuardRevoked
			}
			reach.Settle(governance.ResultOf(out))
			key.Settle(governance.ResultOf(out))
			return call.End(ctx, out)
		},
	}, nil
}

// ambiguous returns why an API could read another path or method than policy sees, or
// "".
func ambiguous(r *http.Request) string {
	path := strings.ToLower(r.URL.EscapedPath())
	for _, odd := range []string{";", "%5c", "%3b", "%25"} {
		if strings.Contains(path, odd) {
			return audit.GuardAmbiguousPath
		}
	}
	decoded := r.URL.Path
	control := func(c rune) bool { return c < ' ' || c == 0x7f }
	if strings.Contains(decoded, "//") || strings.ContainsFunc(decoded, control) || !utf8.ValidString(decoded) {
		return audit.GuardAmbiguousPath
	}
	for part := range strings.SplitSeq(decoded, "/") {
		if part == "." || part == ".." {
			return audit.GuardAmbiguousPath
		}
	}
	for name := range r.Header {
		// Gateways and servers turn - into _, and back.
		switch strings.ToLower(strings.ReplaceAll(name, "_", "-")) {
		case "x-http-method-override", "x-http-method", "x-method-override",
			"x-original-url", "x-original-uri", "x-rewrite-url", "x-override-url":
			return audit.GuardOverride
		}
	}
	query, _ := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "&")) // what is malformed names nothing
	for name := range query {
		if name = strings.ToLower(strings.TrimSpace(name)); name == "_method" || strings.HasPrefix(name, "_method[") {
			return audit.GuardOverride
		}
	}
	return ""
}

// slashesWritten is the path decoded but for its escaped slashes.
func slashesWritten(r *http.Request) string {
	parts := escapedSlash.Split(r.URL.EscapedPath(), -1)
	for i, part := range parts {
		if decoded, err := url.PathUnescape(part); err == nil {
			parts[i] = decoded
		}
	}
	return strings.Join(parts, "%2F")
}

var escapedSlash = regexp.MustCompile("%2[Ff]")

// decide asks for one action. What is not allowed is on record when it returns.
func (d door) decide(ctx context.Context, at audit.Event, action, name string, attrs map[string]any) (governance.Decision, error) {
	got, err := d.engine.Decide(ctx, governance.Request{Actor: at.Actor, Action: action, Name: name, Attrs: attrs})
	if err == nil && got.Allowed() {
		return got, nil
	}
	if got.Action != "" && got.Resource != "" {
		at.Action, at.Resource = got.Action, got.Resource
	}
	decision := got.Decision
	if decision.Effect != audit.Deny {
		decision = audit.Refusal(audit.NewID(), audit.GuardPolicyError)
	}
	return got, d.refuse(ctx, at, decision, errors.Join(fmt.Errorf("%w: %s of %q: %s", ErrDenied, action, name, decision.Reason), err))
}

func (d door) refuse(ctx context.Context, at audit.Event, decision audit.Decision, cause error) error {
	at.Kind, at.Decision = audit.KindDenial, &decision
	return errors.Join(cause, d.log.Append(ctx, at))
}
