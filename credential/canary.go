package credential

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// CanaryPrefix begins the names of canaries: secrets that nobody uses. They are
// laid out where only a thief would pick them up, such as in a file of the
// sandbox, in the settings of a tool, in a page of the wiki, so that to see one
// is an alarm. A canary is kept in any [Store] like other secrets; no [Lease]
// of it is ever given, and a [Scrubber] finds it like other secrets, which a
// [LeakPolicy] records as [audit.KindCanary].
const CanaryPrefix = "canary/"

// ErrCanary is returned to whoever wants to use a canary.
var ErrCanary = errors.New("credential: this secret is a canary, which nobody uses: whoever asks for it found its name where it was laid out")

// Canary reports whether the secret is one that nobody uses.
func (r Ref) Canary() bool { return strings.HasPrefix(r.Name, CanaryPrefix) }

// Canary makes a secret under the name [CanaryPrefix]+name, puts it into the
// store and returns it for you to lay out. Like real tokens of some kind it
// begins with looks, such as "ghp_"; 36 random letters and digits follow. Call
// [Broker.Preload] after a restart, so that canaries are known again.
func (b *Broker) Canary(ctx context.Context, name, looks string, by audit.Change) (Ref, Secret, error) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	text := []byte(looks)
	for len(text) < len(looks)+36 {
		var random [64]byte
		_, _ = rand.Read(random[:]) // never fails
		for _, c := range random {
			if n := int(c & 63); n < len(letters) && len(text) < len(looks)+36 {
				text = append(text, letters[n])
			}
		}
		clear(random[:])
	}
	s := NewSecret(text)
	ref, err := b.Put(ctx, CanaryPrefix+name, s, "a canary: nobody uses it", by)
	if err != nil {
		s.Destroy()
		return Ref{}, Secret{}, fmt.Errorf("canary %q: %w", name, err)
	}
	return ref, s, nil
}
