package hostenv_test

import (
	"context"
	"fmt"
	"os"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/hostenv"
)

// A laptop, whose owner has a token in a variable.
func Example() {
	_ = os.Setenv("EXAMPLE_GITHUB_TOKEN", "ghp_not_a_real_token")
	store, err := hostenv.New(map[string]hostenv.Source{
		"github": {Env: "EXAMPLE_GITHUB_TOKEN"},
		"slack":  {File: "/nowhere/slack-token"},
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	version, secret, err := store.Get(context.Background(), credential.Ref{Name: "github"})
	fmt.Println(version.Ref, version.State, secret, err)
	_, _, err = store.Get(context.Background(), credential.Ref{Name: "slack"})
	fmt.Println(err)
	// Output:
	// github@1 current [redacted] <nil>
	// credential: no secret of that name: put it into the vault first: "slack"
}
