// Package credential holds secrets so that an agent can use them and never has
// them.
//
// Think of three things. A [Vault] keeps secrets under names. A [Binding] says
// where a named secret may go, as one origin, and how it is put on a request,
// as a [Scheme]; a secret without a binding cannot be used at all. A [Lease] is
// the permission for one call: it puts the secret on the request at the last
// moment, inside [Lease.Transport], and only if that very request goes to the
// bound origin. Nothing in between, neither the agent nor the code of a door,
// sees the bytes.
//
// The vault is a [Broker]: it hands out leases of what a [Store] keeps, of which
// there are [MemoryStore] and, in sub-packages, an encrypted file (filevault),
// OpenBao and HashiCorp Vault (openbao), the keyring of the person who is logged
// in (keyring) and the host's environment and files (hostenv); the suite in
// credentialtest tests one of your own. [NewMemory] is all of it in one line, for
// tests.
//
// A store keeps each secret in versions. A new one is pending until it was tried
// ([Broker.Put]), then current ([Broker.Promote]); the one before stays as the
// previous version, which is tried when the other side does not know the new one
// yet, until it is revoked and destroyed ([Broker.Revoke], [Broker.Destroy]). No
// process is restarted for that, and no call fails. The command twinward-vault
// does it for people, and [VersionUses] says when the old version was last used.
//
// How a secret goes out is its [Scheme]: a header of any form, a query, a form, a
// signature of AWS, the environment or a descriptor of a child process
// ([ProcessScheme]). If it is traded for a token, the scheme is an [Exchanger],
// and the vault keeps the token; if a user has to consent, it is a
// [GrantExchanger], and what each user granted is stored apart. These are in the
// sub-package oauth. A [BindingSpec] is a binding as data.
//
// Who may use a secret is not a question for this package. The door asks the
// policy engine, as the action use_credential, before it asks for the lease;
// the lease then names that decision. The vault answers only "is there such a
// secret, and may it go there?".
//
// The way back is guarded too. Services echo tokens in errors, redirects and
// pages. A [Scrubber] knows the secrets and finds them in whatever comes back,
// also when they are base64, hexadecimal, percent-encoded or JSON-escaped, and
// also when a stream cuts them in two. What it cannot find is what was
// encrypted, compressed or reordered; the transport therefore refuses
// responses in a content coding that it cannot look into.
//
// # Without an SDK, and without a network
//
// A program that speaks plain HTTP needs no token either: a [Proxy] serves an API
// inside a session under the API's own name, asks the host about every request,
// puts the secret on it and searches the answer. That is how git, gh and npm work
// in there.
//
// A child process that wants a secret of its own, such as an MCP server on stdio,
// gets it by a [ProcessScheme] when it is started: in its environment ([Env]), or
// through a pipe that can be read once ([Descriptor]). It is bound to a
// [ProcessOrigin], which no request can go to. The process has the secret from
// then on: run it where the agent is not, search what it says, and end it when
// the secret is rotated.
//
// # When a secret comes back
//
// What was found is taken out and recorded always. A [LeakPolicy] of the door says
// what happens besides: to withhold the whole answer, and to act on each secret,
// for example to revoke [Leak].Ref, which is the version of the secret, or of the
// user's grant, that came back or was traded for what did. A [Broker.Canary] is a
// secret that nobody uses and no lease is given of, laid out where only a thief
// looks: its sight is recorded as [audit.KindCanary], an alarm.
//
// # Where the search stands
//
// Everything that goes back towards an agent, or into a log, is one of these:
//
//	surface                                        searched by               test
//	MCP: results, structured content, embedded     mcpx.Gateway              mcpx TestLeakPolicy,
//	resources and blobs, links, _meta, errors                                TestSecretInBrokenBase64
//	MCP: headers, progress and log notifications   not passed on             mcpx TestLeakPolicy
//	of an upstream
//	MCP: stderr of a child process                 [Scrubber.Writer]         TestScrubWriterOfAChild
//	models: answers, streams, errors, headers      inference.Router          inference TestTheKeyNeverComesBack,
//	                                                                         TestLeakPolicy
//	HTTP APIs: status, headers, trailers, bodies,  [Proxy]                   TestProxySearchesAnswers
//	streams
//	errors of transports, stores, token servers    the lease and the broker  TestNoLeakThroughErrors
//	the host's log                                 [Scrubber.Writer]         TestScrubWriterOfALog
//	all of it at once, from inside a session       all of these              examples/credzero
//
// What a session reaches without a handler of the host's, the sandbox passes on
// as it is: there no secret of the vault goes out that could come back. Nor is
// what mcpx.Govern guards searched, a server in the host's own process that has
// secrets only if it leases them.
//
// A secret is bytes behind a callback, [Secret.Use]. Printing, logging,
// marshalling or comparing a [Secret] by accident shows "[redacted]" or does
// not compile. What this promises is that the vault's own copies are zeroed by
// [Secret.Destroy]; a secret in use lives for a moment in the buffers of
// net/http and TLS, and the boundary against the agent is that the agent is
// another process, in a sandbox.
//
// Who the agent is, and until when, is the business of the sub-package agentid.
//
// # BENCHMARKS
//
// On two cores of an EPYC that had ten times as much to do: 64 KiB are searched
// for a thousand secrets in 27 to 34 µs (2 GB/s) if nothing in them is escaped, in
// 157 µs if every sixth byte begins an escape, and in 170 µs if they are JSON in a
// JSON text, of which five forms are searched; nothing is allocated. To add a
// secret and remove it takes 10 µs among 10 others and 40 µs among 1,000.
package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Vault hands out leases: the one method that doors need. Implementations
// are safe for concurrent use, and fail closed: any error means no secret. A
// lease ends with ctx, the context of the call that it is for, if not before.
//
// The errors that callers tell apart are [ErrUnknown], [ErrUnbound],
// [ErrOrigin], [ErrNoCurrent], [ErrStore], [ErrExchange] and [*GrantError].
type Vault interface {
	Lease(ctx context.Context, r LeaseRequest) (*Lease, error)
}

// A LeaseRequest asks for one use of one credential, after use_credential was
// allowed.
type LeaseRequest struct {
	// Actor is for whom the secret is used. Required.
	Actor audit.Actor
	// Credential is the secret's name in the vault. Required.
	Credential string
	// Origin is scheme://host[:port] of the server that the secret will be sent
	// to, as [Origin] returns it. It must equal the binding's. Required.
	Origin string
	// Tool is "<server>__<tool>", or the name of the model.
	Tool string
	// Purpose is "tool" or "model", or a word of the host's own.
	Purpose string
	// Decision is the id of the decision on use_credential.
	Decision string
	// Scopes ask for less than the binding's scopes, if the scheme can be had
	// for less. Scopes that the binding does not have are refused with
	// [ErrScopes]. None means those of the binding.
	Scopes []string
	// TTL is how long the lease can be used. Zero, and everything longer than
	// the vault allows, means as long as the vault allows.
	TTL time.Duration
	// MaxUses is how many requests the lease can be put on. Zero means any
	// number.
	MaxUses int64
}

// A Ref names one version of a secret. It can be logged.
type Ref struct {
	Name string
	// Version counts from 1 and grows by one with every rotation.
	Version uint64
}

// String returns name@version.
func (r Ref) String() string { return fmt.Sprintf("%s@%d", r.Name, r.Version) }

// A Binding says where a secret may go and how it is put on a request. Who may
// use it is the policy's business.
type Binding struct {
	// Origin is scheme://host[:port], without path. It must be https, or http
	// to a loopback address.
	Origin string
	// Scheme puts the secret on the request. Nil means [Bearer].
	Scheme Scheme
	// Scopes are the rights that an [Exchanger] asks for. Other schemes ignore
	// them.
	Scopes []string
}

var (
	// ErrUnknown is returned when the vault has no secret of that name.
	ErrUnknown = errors.New("credential: no secret of that name: put it into the vault first")
	// ErrUnbound is returned when nobody said where the secret may go.
	ErrUnbound = errors.New("credential: the secret is not bound to an origin: call Bind with the server it belongs to")
	// ErrOrigin is returned when a secret would go to another origin than the
	// one it is bound to, and for origins that no secret may go to.
	ErrOrigin = errors.New("credential: the secret may not go to that origin")
	// ErrScopes is returned for a lease that asks for more than the binding has.
	ErrScopes = errors.New("credential: the lease asks for scopes that the binding does not have")
	// ErrReleased is returned by the transport of a lease that has ended.
	ErrReleased = errors.New("credential: the lease has been released: take a new one for each call")
	// ErrExpired is returned by the transport of a lease whose time is over or
	// whose uses are spent.
	ErrExpired = errors.New("credential: the lease has expired or is used up: take a new one for each call")
	// ErrRevoked is returned by the transport of a lease whose version of the
	// secret was revoked.
	ErrRevoked = errors.New("credential: the version of the secret has been revoked: take a new lease")
	// ErrStore is returned when the store behind a vault cannot be read.
	ErrStore = errors.New("credential: the store of the secrets does not answer, and what is known of it is too old to be used")
	// ErrDestroyed is returned when the bytes of a secret are gone, or were
	// never there.
	ErrDestroyed = errors.New("credential: the secret is empty or has been destroyed")
	// ErrLength is returned for secrets that a [Scrubber] could not find again
	// in what comes back: shorter than [MinLength] or longer than [MaxLength].
	ErrLength = fmt.Errorf("credential: a secret must have %d to %d bytes, so that it can be found in what comes back", MinLength, MaxLength)
	// ErrScheme is returned when a secret cannot be put on a request, because
	// it holds bytes that a header may not, or is not of the scheme's form.
	ErrScheme = errors.New("credential: the secret, or the name it should go under, does not fit the scheme")
	// ErrBody is returned when a request's body cannot be searched, extended or
	// signed as the scheme needs.
	ErrBody = errors.New("credential: the request's body does not fit the scheme")
	// ErrNoAudit is for an [Authorize] whose request was allowed and cannot be put
	// on record, so that it is not carried out. It is no denial: once there is a log
	// again, the same request may be.
	ErrNoAudit = errors.New("credential: the request cannot be recorded, so it is not carried out")
	// ErrCoding is returned for a response whose content coding hides its body
	// from the scrubber.
	ErrCoding = errors.New("credential: the response has a content coding that cannot be searched for secrets")
)

// The length in bytes that a secret must have to be leased and scrubbed.
// Anything shorter than MinLength occurs by chance in ordinary text.
const (
	MinLength = 8
	MaxLength = 64 << 10
)
