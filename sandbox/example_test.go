package sandbox_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox"
)

// An agent in a sandbox reaches one name, which this process serves, and
// arrives there as itself.
func ExampleStart() {
	var recorder audit.Recorder // such as an *audit.Log
	policy, err := sandbox.LoadPolicy("policy.yaml", []byte(`
version: 1
network:
  allow:
    - {host: tools.local, ports: [443]}
`))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	box, err := sandbox.Start(ctx, policy, audit.Actor{Agent: "standup"}, recorder, nil)
	if err != nil {
		log.Fatal(err) // a *LayerError says what this system lacks
	}
	defer box.Close()
	err = box.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello", audit.ActorFrom(r.Context()).Agent)
	}))
	if err != nil {
		log.Fatal(err)
	}
	out, err := box.Command(ctx, "curl", "-sS", "https://tools.local/").Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", out)
}
