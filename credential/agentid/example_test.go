package agentid_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"

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

// An agent that proves itself with a key of its own has no secret that could be
// stolen from the registry or on the way.
func ExampleRegistry_Handler_privateKeyJWT() {
	server := httptest.NewUnstartedServer(nil)
	issuer := "http://" + server.Listener.Addr().String()
	agents, _ := agentid.NewRegistry(memoryLog{}, &agentid.Options{Issuer: issuer})
	server.Config.Handler = agents.Handler()
	server.Start()
	defer server.Close()

	// The agent makes a key and hands in the public half.
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	public, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "2026-11", Use: "sig"}}})
	_, err := agents.Register(context.Background(), agentid.Agent{ID: "standup", Owner: "team-a", Keys: public},
		audit.Change{By: "alice@example.com", Reason: "OPS-112"})
	if err != nil {
		panic(err)
	}

	// For each token it signs an assertion, good once and for a minute.
	signer, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "2026-11"))
	claims, _ := json.Marshal(map[string]any{"iss": "standup", "sub": "standup", "aud": issuer, "jti": "1", "exp": time.Now().Add(time.Minute).Unix()})
	jws, _ := signer.Sign(claims)
	assertion, _ := jws.CompactSerialize()
	form := url.Values{
		"grant_type": {"client_credentials"}, "resource": {"https://tools.example.com/mcp"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
	}
	for range 2 {
		resp, err := http.PostForm(server.URL+"/token", form)
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	// Output:
	// 200
	// 401
}

// In production another server issues the tokens. Agents say which one speaks for
// them.
func ExampleOptions_issuers() {
	// Somebody's authorization server, with its key set.
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Use: "sig"}}})
	}))
	defer idp.Close()

	agents, err := agentid.NewRegistry(memoryLog{}, &agentid.Options{
		Issuers: []agentid.Issuer{{URL: idp.URL, JWKS: idp.URL + "/keys", Users: true}},
	})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	by := audit.Change{By: "alice@example.com", Reason: "OPS-112"}
	_, _ = agents.Register(ctx, agentid.Agent{ID: "standup", Owner: "team-a", Issuer: idp.URL}, by)

	// It issues a token with which the agent acts for a user.
	signer, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "k1"))
	claims, _ := json.Marshal(map[string]any{
		"iss": idp.URL, "sub": "bob", "act": map[string]any{"sub": "standup"},
		"aud": "https://tools.example.com/mcp", "exp": time.Now().Add(time.Minute).Unix(),
	})
	jws, _ := signer.Sign(claims)
	token, _ := jws.CompactSerialize()

	actor, _, err := agents.Verify(ctx, token, "https://tools.example.com/mcp")
	fmt.Println(actor.Agent, "for", actor.User, err)
	_ = agents.Revoke(ctx, "standup", audit.Change{By: "alice@example.com", Reason: "INC-7"})
	_, _, err = agents.Verify(ctx, token, "https://tools.example.com/mcp")
	fmt.Println(err)
	// Output:
	// standup for bob <nil>
	// agentid: the agent has been revoked
}

// An agent that behaves oddly is stopped, and what it did can be looked at.
func ExampleRegistry_Freeze() {
	ctx := context.Background()
	by := audit.Change{By: "alice@example.com", Reason: "INC-8"}
	agents, _ := agentid.NewRegistry(memoryLog{}, nil)
	_, _ = agents.Register(ctx, agentid.Agent{ID: "standup", Owner: "team-a"}, by)
	actor, _ := agents.Actor("standup")
	session, cancel, _ := agents.Context(ctx, actor)
	defer cancel()

	_ = agents.Freeze(ctx, "standup", by)
	<-session.Done()
	fmt.Println("keep the workspace:", errors.Is(context.Cause(session), audit.ErrFrozen))
	_ = agents.Reinstate(ctx, "standup", audit.Change{By: "alice@example.com", Reason: "INC-8 was a false alarm"})
	_, err := agents.Actor("standup")
	fmt.Println(err)
	// Output:
	// keep the workspace: true
	// <nil>
}
