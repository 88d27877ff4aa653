// Package inference is the model door: it lets an agent talk to model
// providers in the provider's own protocol, while the host keeps the keys,
// decides which models and which provider-side tools the agent may use, counts
// the tokens, and has every call on record.
//
// Think of a [Router] as a reverse proxy that reads the envelope and never the
// letter. The envelope is the handful of fields that policy is about: the model,
// streaming, the output limit, the tools. It is scanned strictly, so that the
// model that policy saw is the model that any JSON parser behind the door will
// read: a second "model" key, an escaped one, or one in other letters is
// refused and not interpreted. Everything else goes through untouched, byte for
// byte in both directions, so that prompt caches, signatures and SDKs keep
// working. Four edits are made, all by splicing bytes: an alias becomes the
// model's real name; a stream of chat completions is asked to report its usage
// (the extra chunk is taken out again when the client had not asked for it);
// OpenAI's responses, which are stored unless the request says otherwise, get
// "store": false where it does not say; and a call without a limit of its output
// gets the one that the configuration has, under each name that its backend may
// read. What is translated or blanked by an inspector is written anew.
//
// A call walks the way that all doors of this module walk: who is it, what does
// it ask for, may it (the Cedar action "invoke_model" on the model,
// "use_hosted_tool" on everything that the provider would do on the agent's
// behalf, "use_credential" on the key), the durable intent, the lease of the
// key, one request, the scrubbed answer, the durable outcome.
//
// # What clients may ask for
//
//	POST /v1/chat/completions                     OpenAI           invoke_model
//	POST /v1/embeddings                           OpenAI           embed
//	POST /v1/responses                            OpenAIResponses  invoke_model
//	POST /v1/messages                             Anthropic        invoke_model
//	POST /v1/messages/count_tokens                Anthropic        count_tokens
//	POST /v1beta/models/M:generateContent         Gemini           invoke_model
//	POST /v1beta/models/M:streamGenerateContent   Gemini           invoke_model
//	POST /v1beta/models/M:countTokens             Gemini           count_tokens
//	POST /v1beta/models/M:embedContent            Gemini           embed
//	POST /v1beta/models/M:batchEmbedContents      Gemini           embed
//	GET  /v1/models, /v1/models/M, /v1beta/…      all              list_models
//	HEAD /, GET /                                 all              -
//
// The version may be left out. Of queries, "beta=true" goes on to Anthropic and
// "alt=sse" to Gemini, whose streams need it; Gemini's "key" stays here; others
// are refused. A WebSocket is answered with 426, which makes clients go on in
// HTTP. Everything else is refused with 403 in the shape of errors that the
// client knows, and its connection is kept.
//
// Lists of models are made here and no backend is asked: of each provider for
// which policy permits "list_models", the models that it could let the agent
// invoke.
//
// # Several models behind one name
//
// A [Route] is a name that several models answer, by priority and weight. When
// one does not answer, the call goes to the next, but only while nothing of an
// answer went to the client: see [Retry] for what is sent again. Each model is
// decided before anything is sent to it, as are its provider's tools and its key;
// one that policy does not permit is passed over. One intent and one outcome are
// on record of a call; that it goes to another model is an event in between,
// durable before that model is asked, and the outcome's checks name each attempt.
// A [Breaker] keeps calls away from a model that does not answer, and [Timeouts]
// end what takes too long: with an error before the answer has begun, and after
// that with the error event of the protocol and the end of the connection.
//
// # In the same process
//
// An agent that is a part of the host's own program uses [Router.RoundTripper]:
// the same door as the transport of its HTTP client. Any SDK that takes an
// [http.Client] is governed by that one line.
//
// # When the answer counts as given
//
// The outcome is durable before the answer is complete. An answer that is not a
// stream is held until its outcome is on record. A stream cannot be held; its
// events pass as they arrive, but the event that ends it ("[DONE]" for chat
// completions, "response.completed" and its like for responses, "message_stop"
// for Anthropic, the last chunk with a finish reason for Gemini) and the end of
// the HTTP body are released only after the outcome is on record. When the
// outcome cannot be recorded the connection is cut, and the client sees a
// truncated stream and never a complete one.
//
// An event passes when it is whole. A stream is cut that clients would read in
// different ways: with a line that ends in a lone CR, with a byte order mark, or
// with an event of more than [Options.MaxBody].
//
// # What agents are told
//
// A refusal is an HTTP error in the shape of the protocol that was spoken, with
// the id of the decision and without policy text. A model that the agent must
// not know about looks exactly like one that nobody serves. Reasons are in the
// audit log.
//
// Of a backend's error an agent is told the status, the type, the code and the
// message, without what is in it of the host's account: URLs, resources, ids and
// whatever looks like a key. Retry-After goes on.
//
// # Translation
//
// A backend that understands chat completions only can stand in for Anthropic's
// messages and OpenAI's responses ([Backend.Translate]): requests, answers and
// streams are then translated, strictly. What the backend cannot be told exactly
// is refused with the path of the field, unless the host named the feature as one
// to be ignored, which is on record with each call. Policy decides about what the
// backend will read. Counts on record are the backend's own.
//
// # Provider-side tools
//
// Providers offer to search the web, fetch URLs, run code or call other MCP
// servers for the model. Those acts leave from the provider's network and so
// pass by the sandbox and by the tool door. Each is named and decided as
// "use_hosted_tool"; without a permit it is refused. The names are the types of
// tools without their dates (such as "web_search", "code_execution", "mcp",
// "google_search"), and these:
//
//	fetch_url           an image, document or file by its address
//	stored_file         a file in the host's account at the provider
//	store               an answer that the provider is asked to keep
//	field:<name>        a field of the request that this package does not know,
//	                    because some providers choose models or fetch things by
//	                    such ("models", "fallbacks", "plugins")
//	                    and for service_tier, speed, inference_geo, modalities
//	                    and audio if they ask for what has another price
//	field:tools.<name>  the same beside a function
//	block:<type>, item:<type>, part:<name>, source:<type>
//	                    content of a type that this package does not know
//
// Objects that agents leave at the provider are refused in any case, with the
// guard "stored-object": responses to go on from, conversations, stored prompts,
// cached contents, answers to be fetched later. All agents of a host share its
// account there, and an id is no proof of who made the thing. For the same
// reason none of the paths to such objects is served.
//
// # What it cost
//
// The tokens of a call are on record as the backend reports them, also those
// that were read from a cache, written to one, or spent on reasoning. A backend
// that does not report them, or whose answer breaks off, is estimated at four
// bytes a token, and the count is marked as not final.
//
// # Budgets
//
// [Config.Spend] has the host's prices, and budgets in tokens or money for each
// agent, profile, team, user or the whole host. The most that a call may cost is
// set aside before it is sent, on every budget that applies, and settled when it
// ends, however that is; so calls at once do not overshoot. Text is estimated by
// its bytes, an image by what it may become, and what may become anything by all
// that the model reads ([Spend.MaxInput]). The output limit of a call is what its
// protocol calls so, and nothing else: max_output_tokens in a chat completion is
// an unknown field. Chat completions have two names for it, of which some backends
// read only max_tokens. The larger of the two counts; a call that has
// max_completion_tokens alone is sent with both, unless the backend is known to
// read both ([Translate.MaxCompletionTokens]). A stream that goes on beyond what
// was set aside is cut with the error event of its protocol: the door counts the
// events that carry text, at least a token each, and all bytes, 16 KiB a token.
// Without a last count of the backend all that was set aside is charged. A ledger that does not answer denies. [NewMemoryLedger] is for one
// process; package inference/postgres is for many hosts. Rates are of this process
// alone.
//
// # Content
//
// An [Inspector] of the host's may deny a request or an answer, or blank parts
// of them. It sees a request before policy does, so that what policy saw is what
// is sent. Texts of a stream are held back by a window, and of its events nothing
// passes that was not looked at, such as comments. What was asked is not on
// record but as digests, unless a policy says otherwise (@record_prompt).
//
// # Telemetry
//
// What operators see follows OpenTelemetry's semantic conventions for generative
// AI: a client span for each call that could be read, with a name such as
// "chat fast", and measurements of its tokens, its time, and for streams the
// time to the first chunk. Prompts and answers are in neither, and measurements
// have no value that an agent or a backend could make up: models and backends are
// named as in the configuration, so that gen_ai.request.model is the name asked
// for and gen_ai.response.model the model that answered. Only tokens that a
// backend reported to the end are counted. An error.type is the code that the
// agent is told ("denied", "model_not_found", "budget_exceeded" and so on) or that
// is on record ("upstream-429", "timeout", "cancelled").
//
// The trace comes in with the header traceparent, or with the context of the
// request, and is on record with the call. It goes on to backends that
// [Backend.PassTrace] names; tracestate and baggage never do.
//
// # BENCHMARKS
//
// "go test -bench Hop ./inference" streams answers of 20 words through processes
// that take turns: a [Router] with five policies, a vault, prices, a budget in
// memory and a log on disk that is not waited for ([audit.BestEffort]); a bare
// httputil.ReverseProxy with full duplex; nginx 1.22 as a plain proxy that adds
// the key, in one process; and Portkey's gateway 1.15.2 on Node 20. The time is
// the processor's, by each process's own clock, a call. Least and most of six counts
// of one run on two quiet cores of an AMD EPYC with Linux 6.18 (2026-11-29):
//
//	request, at once  Router         ReverseProxy   ratio       nginx          Portkey
//	190 B, 1          336 to 350 µs  211 to 222 µs  1.5 to 1.7  96 to 100 µs   3.4 to 5.1 ms
//	190 B, 8          189 to 199 µs  128 to 135 µs  1.5
//	76 KB, 1          584 to 640 µs  283 to 319 µs  1.9 to 2.1  129 to 142 µs  4.0 to 6.6 ms
//	76 KB, 8          459 to 497 µs  195 to 206 µs  2.1 to 2.5
//
// A profile says where the difference at 190 B goes: two decisions 16 µs, the budget
// and what else admits a call 13 µs, two records with their share of signature and
// sync 19 µs, the meter 12 µs, the lease and the search for secrets 10 µs, garbage
// 15 µs. At 76 KB the scan takes 40 µs, the commitment on record (HMAC-SHA256) 40
// µs, and half of the rest is garbage collection: a process that does nothing else
// has a heap of 4 MB, and each call leaves 130 KB. With GOGC=800 it took 440 to 490
// µs on a busy machine. What was sent is not put into a pool, since an [Inspector]
// or a recorder that kept it would read the next agent's.
//
// At one call at a time the first byte of the body comes 0.19 to 0.21 ms later than
// from the backend itself at 190 B, and 0.37 to 0.39 ms later at 76 KB; through the
// ReverseProxy 0.10 and 0.10 to 0.15 ms, through nginx 0.06 and 0.05 to 0.09 ms,
// through Portkey 28 ms.
//
// Other figures of the same run:
//
//	one event of a stream      0.37 to 0.50 µs, no allocation (BenchmarkMeterEvent)
//	scan of 74 KB              39 to 43 µs, no allocation (BenchmarkScan)
//	scan and splice of 74 KB   57 to 60 µs, 3 allocations: the new body is one (BenchmarkScanAndSplice)
//	configuration swapped      20 models 0.07 ms, 1,000 models 1.5 to 1.8 ms (BenchmarkReload);
//	                           requests wait for neither
//	abort seen by the backend  half within 0.1 ms, 99 of 100 within 0.3 to 1.1 ms (BenchmarkAbort)
//	64 streams of 76 KB each   20 to 23 MB of the process's own memory, the ReverseProxy 13 to 15 MB;
//	                           37 to 40 MB resident in all, the ReverseProxy 26 to 28 MB, of which
//	                           12.5 MB are the program's file (BenchmarkManyStreams)
//
// A request is let go when its answer has begun: streams that go on for long keep
// none of it. Of 10,000 short streams none was truncated (TestNoStreamIsTruncated),
// nor of 9,600 while the configuration was swapped all the time
// (TestSwapsDropNoStream).
package inference

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// Options are the optional parts of a [Router]. The zero value is safe: it
// serves sessions whose door vouches for the actor, and backends without keys.
type Options struct {
	// Vault leases the keys that backends name. Nil: a backend with a
	// credential cannot be called.
	Vault credential.Vault
	// Identify names the actor of a request whose context carries none, that
	// is, one that did not come through a session's own door. Nil refuses such
	// requests. See [IdentifyToken].
	Identify func(*http.Request) (audit.Actor, error)
	// Agents ends calls of revoked agents. Nil: nobody is revoked.
	Agents Agents
	// Leaks says what happens when a backend sends a secret back, besides that
	// it is taken out and recorded.
	Leaks credential.LeakPolicy
	// Transport reaches the backends. Nil: a plain [http.Transport] of the
	// router's own. It must not follow redirects or change bodies.
	Transport http.RoundTripper
	// MaxBody limits request bodies, answers that are not streams, and single
	// events of those that are, in bytes. Zero: 32 MiB.
	MaxBody int64
	// MaxHeld limits what is held in memory of the bodies of all calls at once, in
	// bytes: of requests until the call ends, or until a stream has begun and the
	// backend has read them; of answers until they go out, and of a stream the event
	// that is being read, or waits for the end. A request that is not sent as it came,
	// with another model's name or translated, counts twice. What is made of an answer
	// that is translated or inspected does not count, nor do trees of what is parsed.
	// One agent's calls may hold half of it. What finds no room is refused with 503 and
	// the code "busy". Zero: 16 times MaxBody.
	MaxHeld int64
	// BodyTimeout is how long a client may take to send the body of its request, if
	// the server can set a deadline for reading; it takes the place of the server's own
	// ReadTimeout. After it the request is refused with 408 and its connection is
	// closed. Zero: a minute; below zero: no limit.
	BodyTimeout time.Duration
	// Now is the clock of breakers and Retry-After. Nil: [time.Now].
	Now func() time.Time
	// Rand returns random numbers in [0,1), for weights and pauses. It must be
	// safe for concurrent use. Nil: [rand.Float64].
	Rand func() float64
	// Inspect looks at the content of requests and answers. Nil: nobody does, and
	// it costs nothing. Answers that are looked at are read event by event.
	Inspect Inspector
	// InspectWindow is how many bytes of each text of a stream are held back, so
	// that what comes in pieces is seen as a whole. Zero: 256.
	InspectWindow int
	// Ledger keeps what was used under the budgets of [Config.Spend]. Nil: one in
	// memory, of this router's own. See [NewMemoryLedger].
	Ledger Ledger
	// Logger gets what is of interest to the operator and not evidence. Nil:
	// nothing is logged.
	Logger *slog.Logger
	// TracerProvider is given a span for each call of a model, and MeterProvider
	// its tokens and times, by OpenTelemetry's semantic conventions for generative
	// AI. Nil gives nothing to anybody, and costs nothing.
	TracerProvider oteltrace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// Agents says whether an actor may still act. The context it returns is
// cancelled when the actor is revoked, and with it the call. An agentid.Registry
// implements it.
type Agents interface {
	Context(ctx context.Context, a audit.Actor) (context.Context, context.CancelFunc, error)
}

// decider is what the router needs of a [governance.Engine].
type decider interface {
	Decide(ctx context.Context, r governance.Request) (governance.Decision, error)
	Visible(ctx context.Context, a audit.Actor, action string, models []governance.ToolRef) ([]governance.Visibility, error)
}

// A Router is the [http.Handler] behind inference.local. It is safe for
// concurrent use.
type Router struct {
	engine  decider
	log     audit.Recorder
	opts    Options
	own     *http.Transport // set when the router made its own transport
	routes  atomic.Pointer[routes]
	reload  sync.Mutex // what is in force is what was recorded last
	buffers sync.Pool  // of *[]byte, for streams
	limiter *limiter
	memory  *memory

	telemetry *telemetry // nil: nobody is told
}

// The limits of what is held in memory, and for how long.
const (
	defaultMaxBody     = 32 << 20
	defaultHeldBodies  = 16 // of MaxBody
	defaultBodyTimeout = time.Minute
)

// NewRouter returns a router for cfg. A nil engine or a nil log refuses every
// call. An error means that cfg is not valid.
func NewRouter(cfg Config, engine *governance.Engine, log audit.Recorder, opts *Options) (*Router, error) {
	return newRouter(cfg, engine, log, opts)
}

func newRouter(cfg Config, engine decider, log audit.Recorder, opts *Options) (*Router, error) {
	compiled, err := compile(cfg, nil)
	if err != nil {
		return nil, err
	}
	r := &Router{engine: engine, log: audit.OrRefuse(log), limiter: newLimiter(maxBuckets)}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.MaxBody <= 0 {
		r.opts.MaxBody = defaultMaxBody
	}
	r.opts.MaxBody = min(r.opts.MaxBody, math.MaxInt64-1) // a byte more shows that a body is too large
	if r.opts.MaxHeld <= 0 {
		r.opts.MaxHeld = mulSaturating(r.opts.MaxBody, defaultHeldBodies)
	}
	r.memory = newMemory(r.opts.MaxHeld)
	if r.opts.BodyTimeout == 0 {
		r.opts.BodyTimeout = defaultBodyTimeout
	}
	if r.opts.InspectWindow <= 0 {
		r.opts.InspectWindow = defaultWindow
	}
	if r.opts.Ledger == nil {
		r.opts.Ledger = NewMemoryLedger()
	}
	if r.opts.Logger == nil {
		r.opts.Logger = slog.New(slog.DiscardHandler)
	}
	if r.opts.Transport == nil {
		r.own = newTransport()
		r.opts.Transport = r.own
	}
	if r.opts.Now == nil {
		r.opts.Now = time.Now
	}
	if r.opts.Rand == nil {
		r.opts.Rand = rand.Float64
	}
	r.telemetry = newTelemetry(r.opts.TracerProvider, r.opts.MeterProvider)
	r.routes.Store(compiled)
	return r, nil
}

// Reload puts cfg into force at once; requests in flight keep the routes they
// started with. On an error the old configuration stays. The change is recorded
// before it takes effect.
func (r *Router) Reload(ctx context.Context, cfg Config, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return err
	}
	r.reload.Lock()
	defer r.reload.Unlock()
	compiled, err := compile(cfg, r.routes.Load())
	if err != nil {
		return err
	}
	err = r.log.Append(ctx, audit.Event{
		Kind: audit.KindPolicy, Door: audit.DoorAdmin, Action: "load_models", Resource: anyProvider,
		Change: &by, Detail: compiled.summary(),
	})
	if err != nil {
		return err
	}
	r.routes.Store(compiled)
	return nil
}

// Close closes the idle connections of the router's own transport. Calls in
// flight are not ended: they end with their requests.
func (r *Router) Close() error {
	if r.own != nil {
		r.own.CloseIdleConnections()
	}
	return nil
}

// newTransport returns a transport without limits on the time a model may
// think, and without transparent compression, which would hide the answer's
// bytes from the scrubber.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
	}
}

// ErrConfig is wrapped by every error about a [Config].
var ErrConfig = errors.New("inference: configuration")
