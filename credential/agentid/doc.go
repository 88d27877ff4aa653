// Package agentid knows which agents there are, proves who is calling, and
// ends an agent's life at once.
//
// Think of the badges of a building. The register at the door says who has one
// and who answers for them; a badge is checked at every door, every time; and a
// word to the register voids it everywhere, and has whoever is inside led out.
//
//	agents, err := agentid.NewRegistry(log, &agentid.Options{Issuer: "https://agents.example.com"})
//	secret, err := agents.Register(ctx, agentid.Agent{ID: "standup", Owner: "team-a", Profile: "standup"}, by)
//	http.Handle("/", agents.Handler())                  // agents get their tokens here
//	http.Handle("/mcp", gateway.Handler(agents))        // and are known by them here
//	err = agents.Revoke(ctx, "standup", audit.Change{By: "alice", Reason: "INC-7"})
//
// An agent is a registered identity with an owner, a person or a team that
// answers for it. It becomes an [audit.Actor] in one of two ways. Inside a
// sandbox session the host vouches for it: [Registry.Actor] names the agent
// when the session starts, and the agent holds no credential. Elsewhere it
// presents a token with each request, which lives for minutes and is good for
// one audience, and [Registry.Verify] turns that into the actor, for every
// request anew.
//
// # How it ends
//
// Neither way says what the agent may do; that is policy. Both end the same
// way: after [Registry.Revoke] returns, no token of the agent verifies, no
// session starts, and every context made by [Registry.Context], which sessions,
// calls, streams and leases hang on, is cancelled with the cause [ErrRevoked].
// [Registry.Freeze] does the same and asks, by the cause [ErrFrozen], that what
// the agent left behind be kept; [Used] tells from the audit log which
// credentials it had.
//
// Every act of the people who run the host takes an [audit.Change] and is on
// record. Registering, assigning a profile and reinstating give power, so they
// happen only once they are recorded; revoking and freezing take power away, so
// they happen even if the log is down, and say so.
//
// # Where tokens come from
//
// From [Registry.Handler], a small OAuth token endpoint: a client proves itself
// with its secret, with a key of its own (private_key_jwt) or with a TLS client
// certificate, and gets a token that is opaque or, with [Options.JWT], signed.
// With token exchange it gets one with which it acts for a user, whose own token
// it has to show.
//
// Or from somebody else, as is usual in production: [Options.Issuers] names the
// OAuth and OpenID issuers, and SPIFFE trust domains, whose JWTs count, for the
// agents whose [Agent.Issuer] they are. Signatures are by public keys of the
// issuer's key set only, by algorithms that suit the key; where a token says its
// key might be had from is not read. Issuer, audience, type and times have to be
// right, and all JSON strict. What such a token was found to be is remembered, but
// not for longer than ten minutes, and keys are asked for anew as often: one that
// the issuer withdraws is of no use after twenty minutes, or after another hour if
// the issuer cannot be asked.
//
// Tokens can be bound, so that a stolen one is of no use: to a key that signs
// each request (DPoP, RFC 9449) or to a client certificate (RFC 8705). A door
// that takes such tokens has [WithProof] around its handler.
//
// # Many hosts
//
// Hosts that share a [Store], such as that of credential/postgres, have one
// registry between them: a token from one is good at all, who is revoked on one
// is revoked on all, and what is good for one use is so on all. Each host keeps a
// copy in memory, so that no request waits for the store, and runs
// [Registry.Follow] to keep the copy current. A host that loses the store cannot
// hear of revocations: it denies everything, and ends what runs, after
// [Options.MaxStale].
//
// # Limits
//
// A user's own end (dismissal, logout) is their issuer's to tell, which it does by
// letting tokens expire: keep them short. Tokens that are signed and verified by
// others end here with their agent, and there when they expire, after five minutes
// at most. Client ids are no secrets: the time that a refusal takes may tell
// whether there is such an agent.
//
// # BENCHMARKS
//
// On two cores of an EPYC that had ten times as much to do: a token that was seen
// before 0.3 µs (opaque) and 0.6 to 0.9 µs (a JWT of an external issuer), without
// allocating; a JWT that is new 129 µs (ES256) and 74 µs (RS256); a revocation with
// 1,000 contexts 1.0 to 1.3 ms.
package agentid
