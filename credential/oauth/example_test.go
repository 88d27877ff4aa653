package oauth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/oauth"
)

// A host has a client secret at an authorization server. What its agents' calls
// carry is a token, which the vault gets when it is needed.
func Example() {
	var as *httptest.Server
	as = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/token" {
			id, _, _ := r.BasicAuth()
			fmt.Println("a token for", id, "with scope", r.FormValue("scope"))
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "token-0123456789", "token_type": "Bearer", "expires_in": 600})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": as.URL, "token_endpoint": as.URL + "/token"})
	}))
	defer as.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if auth := r.Header.Get("Authorization"); auth != "" {
			fmt.Println("a call with", auth)
		}
	}))
	defer api.Close()

	vault := credential.NewMemory(map[string]credential.Secret{"mail": credential.NewSecret([]byte("the client's secret"))})
	defer vault.Close()
	err := vault.Bind(context.Background(), "mail", credential.Binding{
		Origin: api.URL,
		Scheme: oauth.ClientCredentials(oauth.Client{Issuer: as.URL, ID: "host"}),
		Scopes: []string{"mail.read"},
	}, audit.Change{By: "alice@example.com", Reason: "OPS-112"})
	if err != nil {
		panic(err)
	}
	for range 2 {
		lease, err := vault.Lease(context.Background(), credential.LeaseRequest{
			Actor: audit.Actor{Agent: "standup"}, Credential: "mail", Origin: api.URL,
		})
		if err != nil {
			panic(err)
		}
		resp, err := (&http.Client{Transport: lease.Transport(nil)}).Get(api.URL)
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		lease.Release()
	}
	// Output:
	// a token for host with scope mail.read
	// a call with Bearer token-0123456789
	// a call with Bearer token-0123456789
}
