package credential

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// An Exchanger is a [Scheme] whose stored secret never goes to the bound
// origin: it is traded elsewhere for a token that lives shortly, and Apply puts
// that token on requests. The sub-package oauth has most of them.
//
// The vault keeps tokens in memory, asks for a new one before the old one
// expires, has one Exchange in flight per token, and makes every token known to
// its [Scrubber] before anybody can use it.
type Exchanger interface {
	Scheme
	// Subject names for whom of all actors a token is. Actors with equal
	// subjects share a token; "" means that all of them do.
	Subject(a audit.Actor) string
	// Exchange trades a secret for a token. It must honour ctx, be safe for
	// concurrent use, and name no secret in an error. An error that matches
	// [ErrReauth] says that no further attempt can succeed with this secret.
	Exchange(ctx context.Context, x Exchange) (Token, error)
}

// A GrantExchanger is an [Exchanger] that needs, besides the secret of the
// client, what a subject granted to it, such as the refresh token of one user.
// Grants are secrets of the same store, under [GrantName].
type GrantExchanger interface {
	Exchanger
	// UsesGrant marks the interface. The secret of the client itself may be
	// absent then, for a public client has none.
	UsesGrant()
}

// An Exchange is what an [Exchanger] may work with.
type Exchange struct {
	// Credential is the name of the secret, for errors.
	Credential string
	// Secret is the stored secret. Its bytes must not outlive the call.
	Secret Secret
	// Grant is what the subject granted, for a [GrantExchanger]; else empty.
	Grant Secret
	// Actor is for whom the token will be used.
	Actor audit.Actor
	// Origin is where the token will be sent to: the binding's.
	Origin string
	// Scopes are those of the binding, or the fewer that the lease asks for;
	// Bound are those of the binding.
	Scopes, Bound []string
	// Held is the token that the vault has, which ends soon or was refused, and
	// so must not be what Exchange returns; it is empty if there is none.
	Held Secret
	// Client sends the requests of the exchange. Nil means that the exchanger
	// uses one of its own. It must not follow redirects.
	Client *http.Client
	// Now is the time by the vault's clock.
	Now time.Time
	// Learn makes a secret that was met on the way, such as an intermediate
	// token, known to the vault's scrubber. It is never nil.
	Learn func(Secret)
}

// A Token is what a secret was traded for.
type Token struct {
	Value Secret
	// Expires is when the token ends; zero means that nobody said, and then it
	// is kept for [UnknownLife] only.
	Expires time.Time
	// Scopes are those that were granted, if the other side said.
	Scopes []string
	// Replace is what must be stored in place of the grant, because the other
	// side has rotated the refresh token. The vault stores it durably before the
	// token is used, and does not use the token if it cannot.
	Replace *Secret
}

// UnknownLife is how long a token is kept whose life nobody told.
const UnknownLife = 5 * time.Minute

var (
	// ErrReauth is returned when a secret or grant is no longer accepted and
	// somebody has to give a new one: an operator, or the user.
	ErrReauth = errors.New("credential: the authorization has ended: it must be given anew")
	// ErrNoGrant is returned when the user for whom an agent acts has not
	// allowed the use of their account yet.
	ErrNoGrant = errors.New("credential: the user has not granted access")
	// ErrExchange is returned when no token can be had now.
	ErrExchange = errors.New("credential: no token can be had")
)

// A GrantError says that a call needs the consent of the user it is made for.
// It matches [ErrNoGrant], and also [ErrReauth] if there was a grant that has
// ended.
type GrantError struct {
	Credential string      // name of the secret
	Actor      audit.Actor // whose User has to consent
	Ended      bool        // there was a grant, which is no longer accepted
}

// Error implements error.
func (e *GrantError) Error() string {
	what := ErrNoGrant
	if e.Ended {
		what = ErrReauth
	}
	return fmt.Sprintf("%v: user %q, credential %q; send them to the host's consent page", what, e.Actor.User, e.Credential)
}

// Is reports whether target is [ErrNoGrant] or, for a grant that has ended,
// [ErrReauth].
func (e *GrantError) Is(target error) bool {
	return target == ErrNoGrant || e.Ended && target == ErrReauth
}

// GrantName returns the name under which a store keeps what a subject granted
// for the use of a credential. It shows neither the subject's name nor any
// character that a store might not take.
func GrantName(credential, subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return credential + ".grant-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:15]))
}
