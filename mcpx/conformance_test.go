package mcpx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/mcpx/mcptest/npmtest"
)

// The scenarios of MCP's conformance suite for authorization extensions. Left
// out are auth/dpop and auth/dpop-nonce: leases put bearer tokens on requests,
// and none that is bound to a key.
var scenarios = []string{"auth/client-credentials-basic", "auth/client-credentials-jwt", "auth/enterprise-managed-authorization", "auth/wif-jwt-bearer"}

// The suite starts this test binary as the client, and judges what it sends.
func TestAuthorizationConformance(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	for _, name := range scenarios {
		t.Run(strings.TrimPrefix(name, "auth/"), func(t *testing.T) {
			cmd := npmtest.Command(t.Context(), t, npmtest.Conformance, "client", "--command", exe, "--scenario", name)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "MCPX_TEST_CHILD=conformance")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), "OVERALL: PASSED", "%s", out)
		})
	}
}

// conformanceClient is what a host does: an operator has put the credential and
// bound it, an agent's call leases it.
func conformanceClient() error {
	ctx := context.Background()
	var given struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		Key          string `json:"private_key_pem"`
		IDPClient    string `json:"idp_client_id"`
		IDToken      string `json:"idp_id_token"`
		IDPIssuer    string `json:"idp_issuer"`
		IDPToken     string `json:"idp_token_endpoint"`
		JWT          string `json:"valid_jwt"`
	}
	if err := json.Unmarshal([]byte(os.Getenv("MCP_CONFORMANCE_CONTEXT")), &given); err != nil {
		return err
	}
	endpoint := secure(os.Args[len(os.Args)-1])
	at, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	origin := "https://" + at.Host
	// Whoever registered the client knew the authorization server.
	resp, err := (&http.Client{Transport: cleartext{rewrite: true}}).Get(origin + "/.well-known/oauth-protected-resource" + at.Path)
	if err != nil {
		return err
	}
	var resource struct {
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers"`
		Scopes   []string `json:"scopes_supported"`
	}
	err = json.NewDecoder(resp.Body).Decode(&resource)
	resp.Body.Close()
	if err != nil || len(resource.Servers) == 0 {
		return fmt.Errorf("resource metadata: %v", err)
	}
	c := oauth.Client{Issuer: resource.Servers[0], ID: given.ClientID, Resource: resource.Resource, Audience: strings.Replace(resource.Servers[0], "https:", "http:", 1)}
	constant := func(v string) oauth.TokenFunc {
		return func(context.Context, audit.Actor) (credential.Secret, error) {
			return credential.NewSecret([]byte(v)), nil
		}
	}
	secret := given.ClientSecret
	var scheme credential.Scheme
	switch os.Getenv("MCP_CONFORMANCE_SCENARIO") {
	case "auth/client-credentials-basic":
		scheme = oauth.ClientCredentials(c)
	case "auth/client-credentials-jwt":
		secret, c.Auth = given.Key, oauth.PrivateKeyJWT
		scheme = oauth.ClientCredentials(c)
	case "auth/enterprise-managed-authorization":
		idp := oauth.Client{Issuer: secure(given.IDPIssuer), ID: given.IDPClient, Auth: oauth.None, TokenEndpoint: secure(given.IDPToken)}
		scheme = oauth.IDJAG(idp, c, constant(given.IDToken))
	case "auth/wif-jwt-bearer":
		secret, c.Auth = "no secret is needed", oauth.None
		scheme = oauth.JWTBearer(c, constant(given.JWT))
	default:
		return errors.New("an unknown scenario")
	}
	vault, err := credential.NewBroker(credential.NewMemoryStore(map[string]credential.Secret{"k": credential.NewSecret([]byte(secret))}), unrecorded{},
		&credential.BrokerOptions{Client: &http.Client{Transport: cleartext{rewrite: true}}})
	if err != nil {
		return err
	}
	defer vault.Close()
	if err := vault.Bind(ctx, "k", credential.Binding{Origin: origin, Scheme: scheme}, admin); err != nil {
		return err
	}
	lease, err := vault.Lease(ctx, credential.LeaseRequest{Actor: forAlice, Credential: "k", Origin: origin})
	if err != nil {
		return err
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "twinward", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: endpoint, HTTPClient: &http.Client{Transport: lease.Transport(cleartext{})}, DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	_, err = session.ListTools(ctx, nil)
	return err
}

// unrecorded stands for a log in a process that lives for one call.
type unrecorded struct{}

func (unrecorded) Begin(context.Context, audit.Intent) (audit.Call, error) {
	return nil, audit.ErrNoLog
}
func (unrecorded) Append(context.Context, audit.Event) error { return nil }

func secure(u string) string { return strings.Replace(u, "http://localhost", "https://localhost", 1) }

// The suite's servers are at http://localhost, where no secret may go by our
// rules. For this test they are called https://localhost: cleartext sends what
// goes there as the suite wants it.
type cleartext struct{ rewrite bool } // names in forms and answers as well

func (c cleartext) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "http"
	if c.rewrite && r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		b = bytes.ReplaceAll(b, []byte("https%3A%2F%2Flocalhost"), []byte("http%3A%2F%2Flocalhost"))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !c.rewrite {
		return resp, err
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	b = bytes.ReplaceAll(b, []byte("http://localhost"), []byte("https://localhost"))
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	return resp, err
}
