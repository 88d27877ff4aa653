package filevault

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// Reading one value of a thousand.
func BenchmarkGet(b *testing.B) {
	s := thousand(b)
	b.ReportAllocs()
	for b.Loop() {
		_, secret, err := s.Get(b.Context(), credential.Ref{Name: "name-500"})
		if err != nil {
			b.Fatal(err)
		}
		secret.Destroy()
	}
}

// Putting one value to a thousand, durably.
func BenchmarkPut(b *testing.B) {
	s := thousand(b)
	secret := credential.NewSecret([]byte(credentialtest.Canary()))
	var after uint64
	b.ReportAllocs()
	for b.Loop() {
		ref, err := s.Put(b.Context(), "one", secret, after, "")
		if err == nil {
			err = s.SetState(b.Context(), ref, credential.StatePending, credential.StateDestroyed)
		}
		if err != nil {
			b.Fatal(err)
		}
		after = ref.Version
	}
}

func thousand(b *testing.B) *Store {
	s, _ := newVault(b, newKEK(b), nil)
	require.NoError(b, s.save(b.Context(), func(body *body, generation uint64) error {
		for i := range 1000 {
			v := version{Number: 1, State: credential.StateCurrent, Created: s.now().UTC(), Changed: s.now().UTC()}
			name := fmt.Sprintf("name-%03d", i)
			if err := s.keys.seal(name, &v, generation, []byte(credentialtest.Canary())); err != nil {
				return err
			}
			body.Secrets = append(body.Secrets, secret{Name: name, Versions: []version{v}})
		}
		return nil
	}))
	return s
}
