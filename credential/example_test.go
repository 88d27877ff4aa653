package credential_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// A door leases a secret for one call. The request that it makes never carries
// the secret, and what comes back is scrubbed.
func Example() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"error":"token %s has no access"}`, r.Header.Get("Authorization")[len("Bearer "):])
	}))
	defer api.Close()

	vault := credential.NewMemory(map[string]credential.Secret{
		"github": credential.NewSecret([]byte("ghp_example0123456789")),
	})
	err := vault.Bind(context.Background(), "github", credential.Binding{Origin: api.URL},
		audit.Change{By: "alice@example.com", Reason: "OPS-112"})
	if err != nil {
		panic(err)
	}

	lease, err := vault.Lease(context.Background(), credential.LeaseRequest{
		Actor:      audit.Actor{Agent: "standup"},
		Credential: "github",
		Origin:     api.URL,
		Tool:       "github__list_prs",
		Purpose:    "tool",
		Decision:   "the decision that allowed use_credential",
	})
	if err != nil {
		panic(err)
	}
	defer lease.Release()
	client := http.Client{Transport: lease.Transport(nil)}
	resp, err := client.Get(api.URL + "/repos")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body := lease.Scrubber().Reader(resp.Body)
	text, _ := io.ReadAll(body)
	fmt.Printf("%s %v\n", text, body.Found().Names())

	_, err = client.Get("https://evil.example/")
	fmt.Println(errors.Is(err, credential.ErrOrigin))
	// Output:
	// {"error":"token [redacted:github] has no access"} map[github:1]
	// true
}

func ExampleSecret() {
	key := credential.NewSecret([]byte("sk-very-secret"))
	fmt.Printf("%v %+v %x %s\n", key, struct{ Key credential.Secret }{key}, key, fmt.Sprint(key))
	_ = key.Use(func(b []byte) error {
		fmt.Println(len(b), "bytes")
		return nil
	})
	// Output:
	// [redacted] {Key:[redacted]} [redacted] [redacted]
	// 14 bytes
}

func ExampleOrigin() {
	fmt.Println(credential.Origin("https://API.github.com:443/mcp?x=1"))
	_, err := credential.Origin("http://api.github.com/mcp")
	fmt.Println(err)
	// Output:
	// https://api.github.com <nil>
	// credential: the secret may not go to that origin: http://api.github.com is not a loopback address; use https
}

func ExampleScrubber() {
	var s credential.Scrubber
	_ = s.Add("slack", credential.NewSecret([]byte("xoxb-0123456789")))
	out, found := s.Redact([]byte(`{"raw":"xoxb-0123456789","b64":"eG94Yi0wMTIzNDU2Nzg5","esc":"\u0078oxb-0123456789"}`))
	fmt.Printf("%s %v\n", out, found.Names())
	fmt.Println(found[credential.Sight{Ref: credential.Ref{Name: "slack"}, Encoding: "base64"}], "in base64")
	// Output:
	// {"raw":"[redacted:slack]","b64":"[redacted:slack]","esc":"[redacted:slack]"} map[slack:3]
	// 1 in base64
}

// A sandbox session serves the handler as api.example; here a test server does.
func ExampleProxy() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you are %s", r.Header.Get("Authorization")) // an API that says too much
	}))
	defer api.Close()
	vault := credential.NewMemory(map[string]credential.Secret{"api": credential.NewSecret([]byte("sk-very-secret-key"))})
	_ = vault.Bind(context.Background(), "api", credential.Binding{Origin: api.URL}, audit.Change{By: "alice@example.com", Reason: "OPS-112"})

	authorize := func(r *http.Request) (credential.Use, error) {
		if r.Method != http.MethodGet { // ask the policy engine here, for connect and use_credential
			return credential.Use{}, errors.New("read only")
		}
		// and begin a record, whose end is Use.End
		return credential.Use{
			Lease: credential.LeaseRequest{Credential: "api", Purpose: "http", Decision: "dec_1"},
			End: func(_ context.Context, out audit.Outcome) error {
				fmt.Println("on record:", out.Status, out.Checks)
				return nil
			},
			Log: new(journal), // where leaks go on record
		}, nil
	}
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent := audit.Actor{Agent: "reporter"} // a session's door knows
		credential.Proxy(api.URL, vault, authorize).ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), agent)))
	}))
	defer door.Close()

	resp, _ := http.Get(door.URL + "/me")
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s\n", body)
	resp, _ = http.Post(door.URL+"/me", "", nil)
	fmt.Println(resp.Status)
	// Output:
	// on record: ok [scrubbed:api:1]
	// you are Bearer [redacted:api]
	// 403 Forbidden
}
