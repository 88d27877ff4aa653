package keyring_test

import (
	"context"
	"fmt"

	gokeyring "github.com/zalando/go-keyring"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/keyring"
)

// A developer's machine: the secret is in the keyring that opens at login.
func Example() {
	gokeyring.MockInit() // for this example only

	store, err := keyring.New(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	ref, err := store.Put(ctx, "github", credential.NewSecret([]byte("ghp_not_a_real_token")), 0, "made by hand")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := store.SetState(ctx, ref, credential.StatePending, credential.StateCurrent); err != nil {
		fmt.Println(err)
		return
	}
	version, secret, err := store.Get(ctx, credential.Ref{Name: "github"})
	fmt.Println(version.Ref, version.State, version.Note, secret, err)
	// Output: github@1 current made by hand [redacted] <nil>
}
