package agentid_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/url"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/agentid"
)

// A memoryLog stands in for the audit log of a real host.
type memoryLog struct{ audit.Recorder }

func (memoryLog) Append(context.Context, audit.Event) error { return nil }

// An agent outside a sandbox trades its client secret for a token; the host
// turns the token of each request back into the actor.
func Example() {
	ctx := context.Background()
	by := audit.Change{By: "alice@example.com", Reason: "OPS-112"}
	server := httptest.NewUnstartedServer(nil)
	agents, err := agentid.NewRegistry(memoryLog{}, &agentid.Options{
		Issuer: "http://" + server.Listener.Addr().String(),
	})
	if err != nil {
		panic(err)
	}
	server.Config.Handler = agents.Handler()
	server.Start()
	defer server.Close()

	secret, err := agents.Register(ctx, agentid.Agent{ID: "standup", Owner: "team-a", Profile: "standup"}, by)
	if err != nil {
		panic(err)
	}

	// The agent's side: any OAuth client will do.
	client := clientcredentials.Config{
		ClientID:       "standup",
		TokenURL:       server.URL + "/token",
		EndpointParams: url.Values{"resource": {"https://tools.example.com/mcp"}},
		AuthStyle:      oauth2.AuthStyleInHeader,
	}
	_ = secret.Use(func(b []byte) error { client.ClientSecret = string(b); return nil })
	token, err := client.Token(ctx)
	if err != nil {
		panic(err)
	}

	// The host's side, for each request.
	actor, _, err := agents.Verify(ctx, token.AccessToken, "https://tools.example.com/mcp")
	fmt.Println(actor.Agent, actor.Profile, err)

	// Work hangs on a context that ends with the agent.
	call, cancel, err := agents.Context(ctx, actor)
	if err != nil {
		panic(err)
	}
	defer cancel()
	_ = agents.Revoke(ctx, "standup", audit.Change{By: "alice@example.com", Reason: "INC-7"})
	fmt.Println(context.Cause(call))
	_, _, err = agents.Verify(ctx, token.AccessToken, "https://tools.example.com/mcp")
	fmt.Println(err)
	// Output:
	// standup standup <nil>
	// agentid: the agent has been revoked
	// agentid: the agent has been revoked
}
