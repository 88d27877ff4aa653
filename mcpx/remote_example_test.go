package mcpx_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/mcpx"
)

// The agent brings nothing, or something that counts for nothing; its token is
// put on outside its session.
func ExampleRemote() {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s, cookie %q", r.Header.Get("Authorization"), r.Header.Get("Cookie"))
	}))
	defer gateway.Close()
	// A host binds the agent's client secret with oauth.ClientCredentials.
	vault := credential.NewMemory(map[string]credential.Secret{"standup-bot": credential.NewSecret([]byte("short-lived-token"))})
	by := audit.Change{By: "alice", Reason: "the standup"}
	if err := vault.Bind(context.Background(), "standup-bot", credential.Binding{Origin: gateway.URL}, by); err != nil {
		panic(err)
	}
	door := mcpx.Remote(gateway.URL+"/mcp", func(ctx context.Context, a audit.Actor) (*credential.Lease, error) {
		return vault.Lease(ctx, credential.LeaseRequest{Actor: a, Credential: a.Agent, Origin: gateway.URL, Purpose: "gateway"})
	})

	// A session attaches its actor: box.Handle("tools.local", door).
	r := httptest.NewRequest("POST", "https://tools.local/mcp", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer of-somebody-else")
	r.Header.Set("Cookie", "admin=1")
	w := httptest.NewRecorder()
	door.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), audit.Actor{Agent: "standup-bot"})))
	answer, _ := io.ReadAll(w.Body)
	fmt.Println(w.Code, string(answer)) // and a token that comes back goes no further
	// Output:
	// 200 Bearer [redacted:standup-bot], cookie ""
}
