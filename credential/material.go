package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// ActionRefusedCredential is the action of the event that a broker records when
// an origin has refused a credential and was asked again with another version
// or a new token. Detail: "version" was refused, "tried" is the other version,
// "status" the answer to it. With "grant", the name of a user's grant, they are
// versions of that.
const ActionRefusedCredential = "refused_credential"

// material is what a lease carries.
type material struct {
	ref     Ref
	secret  Secret
	ends    time.Time // zero: does not end
	revoked func() bool
	grant   Ref // zero: none was traded
	second  Second
}

// material returns what the lease that r asks for carries: a version of the
// secret itself, or the token that it is traded for.
func (b *Broker) material(ctx context.Context, r LeaseRequest, e *entry, bound *Binding) (material, error) {
	x, traded := bound.Scheme.(Exchanger)
	if !traded {
		if len(r.Scopes) > 0 {
			return material{}, fmt.Errorf("%w: %q has none", ErrScopes, r.Credential)
		}
		return b.plain(ctx, r, e, bound)
	}
	// Nothing is traded for a lease that will be refused.
	if err := r.Actor.Validate(); err != nil {
		return material{}, fmt.Errorf("credential: lease of %q: %w", r.Credential, err)
	}
	if asked, err := bareOrigin(r.Origin); err != nil || asked != bound.Origin {
		return material{}, &OriginError{Credential: r.Credential, Bound: bound.Origin, Got: asked}
	}
	for _, scope := range r.Scopes {
		if !slices.Contains(bound.Scopes, scope) {
			return material{}, fmt.Errorf("%w: %q of %q", ErrScopes, scope, r.Credential)
		}
	}
	if g, ok := x.(GrantExchanger); ok {
		if len(r.Scopes) > 0 {
			return material{}, fmt.Errorf("%w: those of a grant cannot be had for less: %q", ErrScopes, r.Credential)
		}
		return b.granted(ctx, r, e, bound, g)
	}
	return b.traded(ctx, r, e, bound, x)
}

// usable returns what may be used of a secret, which has a current version.
func (b *Broker) usable(ctx context.Context, e *entry) (*known, error) {
	k, err := b.fresh(ctx, e)
	if err == nil {
		_, err = k.use(e.name)
		if errors.Is(err, ErrRevoked) && e.known.Load() != k {
			return b.usable(ctx, e) // rotated meanwhile, and more than once
		}
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

// use returns the current version.
func (k *known) use(name string) (*live, error) {
	switch {
	case k.current == nil:
		return nil, fmt.Errorf("%w: %q", ErrNoCurrent, name)
	case k.current.revoked.Load(): // and the store could not be told yet
		return nil, fmt.Errorf("%w: %s", ErrRevoked, k.current.ref)
	}
	return k.current, nil
}

// plain is the stored secret itself.
func (b *Broker) plain(ctx context.Context, r LeaseRequest, e *entry, bound *Binding) (material, error) {
	k, err := b.usable(ctx, e)
	if err != nil {
		return material{}, err
	}
	v := k.current
	if err := b.divide(v, bound); err != nil {
		return material{}, err
	}
	return material{ref: v.ref, secret: v.secret, revoked: v.revoked.Load, second: func(ctx context.Context) (*Other, error) {
		k := e.known.Load() // no way to the store in the middle of a call
		o := k.current
		if o == nil || o.ref == v.ref {
			o = k.previous
		}
		if o == nil || o.ref == v.ref || o.revoked.Load() {
			return nil, nil
		}
		if err := b.divide(o, bound); err != nil {
			return nil, err
		}
		return &Other{Secret: o.secret, Done: func(status int) error { return b.refused(ctx, r, "", v.ref.Version, o.ref.Version, status) }}, nil
	}}, nil
}

// divide makes the parts of a secret known to the scrubber.
func (b *Broker) divide(v *live, bound *Binding) error {
	d, ok := bound.Scheme.(Divider)
	if !ok || v.divided.Load() == bound {
		return nil
	}
	if err := learnParts(b.scrubber, v.ref, v.secret, d); err != nil {
		return b.clean(fmt.Errorf("lease of %s: %w", v.ref, err))
	}
	v.divided.Store(bound)
	return nil
}

func learnParts(s *Scrubber, ref Ref, secret Secret, d Divider) error {
	var parts []Secret
	err := secret.Use(func(text []byte) (err error) {
		parts, err = d.Parts(text)
		return err
	})
	for _, part := range parts {
		if err == nil {
			err = s.AddVersion(ref, part)
		}
		part.Destroy()
	}
	return err
}

// traded is a token for the current version of a secret.
func (b *Broker) traded(ctx context.Context, r LeaseRequest, e *entry, bound *Binding, x Exchanger) (material, error) {
	k, err := b.usable(ctx, e)
	if err != nil {
		return material{}, err
	}
	v := k.current
	key := tokenKey{name: r.Credential, binding: bound, subject: x.Subject(r.Actor), scopes: strings.Join(r.Scopes, " ")}
	do := func(ctx context.Context, slot *tokenSlot) (Token, uint64, error) {
		k, err := b.usable(ctx, e)
		if err != nil {
			return Token{}, 0, err
		}
		ref := k.current.ref
		if err := b.divide(k.current, bound); err != nil {
			return Token{}, 0, err
		}
		ask := b.exchange(r, bound, ref.Version, slot.token())
		ask.Secret, slot.traded = k.current.secret, ends{&k.current.revoked}
		t, err := x.Exchange(ctx, ask)
		if p := k.previous; errors.Is(err, ErrReauth) && p != nil && !p.revoked.Load() && b.divide(p, bound) == nil {
			// The other side has not learned the new secret yet.
			ask.Secret = p.secret
			if second, e := x.Exchange(ctx, ask); e == nil {
				// It is for the current version, and ends with the previous one.
				slot.traded = ends{&p.revoked}
				t, err = second, b.refused(ctx, r, "", ref.Version, p.ref.Version, http.StatusOK)
			}
		}
		if err == nil && t.Replace != nil {
			err = errors.New("the scheme has rotated a secret that is not a grant")
		}
		if err == nil {
			err = b.scrubber.AddVersion(ref, t.Value)
		}
		return t, ref.Version, b.exchangeError(r.Credential, err)
	}
	h, err := b.tokens.get(ctx, key, wanted{version: v.ref.Version}, do)
	if err != nil {
		return material{}, err
	}
	// It may be for a newer version, if the secret was rotated meanwhile.
	return material{ref: key.of(h.version), secret: h.secret, ends: h.ends, revoked: h.revoked.any, second: b.renewal(r, h.version, key, h, do)}, nil
}

// renewal asks once for a new token in place of one that was refused.
func (b *Broker) renewal(r LeaseRequest, version uint64, key tokenKey, h *heldToken, do trade) Second {
	return func(ctx context.Context) (*Other, error) {
		fresh, err := b.tokens.replace(ctx, key, h, do)
		if err != nil || fresh == nil {
			return nil, err
		}
		return &Other{Secret: fresh.secret, Done: func(status int) error { return b.refused(ctx, r, key.grant, version, fresh.version, status) }}, nil
	}
}

// exchange is what an [Exchanger] gets, but for the secret.
func (b *Broker) exchange(r LeaseRequest, bound *Binding, version uint64, held Secret) Exchange {
	scopes := r.Scopes
	if len(scopes) == 0 {
		scopes = bound.Scopes
	}
	return Exchange{
		Credential: r.Credential, Actor: r.Actor, Origin: bound.Origin,
		Scopes: slices.Clone(scopes), Bound: slices.Clone(bound.Scopes), Held: held, Client: b.opts.Client, Now: b.opts.Now(),
		Learn: func(s Secret) { _ = b.learn(Ref{r.Credential, version}, s) }, // too short to be found is too short to be of use
	}
}

// learn makes what was met in an exchange, or was used up by it, known to the
// scrubber for an hour.
func (b *Broker) learn(ref Ref, s Secret) error {
	err := b.scrubber.AddVersion(ref, s)
	if err == nil {
		b.tokens.fade(ref, s, b.opts.Now().Add(time.Hour))
	}
	return err
}

// exchangeError is an error of an exchange, scrubbed: the other side may have
// put a secret into its words.
func (b *Broker) exchangeError(name string, err error) error {
	var grant *GrantError
	if err == nil || errors.As(err, &grant) {
		return err
	}
	return b.clean(fmt.Errorf("%w: %q: %w", ErrExchange, name, err))
}

// refused records that an origin did not take a credential, and what came of
// trying another. It must be on record before the answer is used.
func (b *Broker) refused(ctx context.Context, r LeaseRequest, grant string, version, tried uint64, status int) error {
	b.opts.Logger.Warn("credential: refused, and tried again with another version or token",
		"credential", r.Credential, "version", version, "tried", tried, "status", status)
	if b.log == nil {
		return nil
	}
	door := audit.DoorTool
	if r.Purpose == "model" {
		door = audit.DoorModel
	}
	detail := map[string]string{
		"version": strconv.FormatUint(version, 10), "tried": strconv.FormatUint(tried, 10), "status": strconv.Itoa(status),
	}
	if grant != "" {
		detail["grant"] = grant
	}
	return b.log.Append(context.WithoutCancel(ctx), audit.Event{
		Kind: audit.KindCredential, Door: door, Action: ActionRefusedCredential,
		Resource: "Credential::" + strconv.Quote(r.Credential), Actor: r.Actor,
		Detail: detail,
	})
}
