package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// A vendor accepts some keys.
type vendor struct {
	*httptest.Server
	mu    sync.Mutex
	keys  map[string]bool
	asked []string
}

func newVendor(t *testing.T, keys ...string) *vendor {
	v := &vendor{keys: make(map[string]bool)}
	for _, k := range keys {
		v.keys["Bearer "+k] = true
	}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.asked = append(v.asked, r.Method+" "+r.URL.String())
		if !v.keys[r.Header.Get("Authorization")] {
			http.Error(w, "no such key: "+r.Header.Get("Authorization"), http.StatusUnauthorized)
		}
	}))
	t.Cleanup(v.Close)
	return v
}

// The life of a secret at the command line.
func TestSecret(t *testing.T) {
	d := newDesk(t)
	first, second, wrong := credentialtest.Canary(), credentialtest.Canary(), credentialtest.Canary()
	vendor := newVendor(t, first, second)
	d.run(exitOK, "create VAULT OFFICE")

	d.in = first + "\n"
	out, _ := d.run(exitOK, "put -note vendor's_page VAULT OFFICE github")
	require.Equal(t, "github@1 is pending: try it with test, then promote it\n", out)
	_, errs := d.run(exitFailed, "test VAULT OFFICE github")
	require.Contains(t, errs, "not bound")
	out, _ = d.run(exitOK, "bind -origin "+vendor.URL+" VAULT OFFICE github")
	require.Equal(t, "github goes to "+vendor.URL+" as bearer, and nowhere else\n", out)
	out, _ = d.run(exitOK, "test -path /user?a=b VAULT OFFICE github")
	require.Equal(t, "github@1: GET "+vendor.URL+"/user?a=b answers 200 OK\n", out)
	d.run(exitOK, "promote VAULT OFFICE github")

	// A new key that the vendor does not know is found out before it is used.
	d.in = wrong
	d.run(exitOK, "put VAULT OFFICE github")
	out, errs = d.run(exitFailed, "test -json VAULT OFFICE github")
	var answer tried
	require.NoError(t, json.Unmarshal([]byte(out), &answer))
	require.Equal(t, tried{"github", 2, "GET", vendor.URL + "/", 401, false}, answer)
	require.Contains(t, errs, "github@2 was not accepted")
	d.run(exitOK, "destroy VAULT OFFICE github@2")
	d.run(exitFailed, "test VAULT OFFICE github@2")
	d.run(exitFailed, "test VAULT OFFICE github@7")
	d.run(exitFailed, "promote VAULT OFFICE github")
	d.in = second
	d.run(exitOK, "put VAULT OFFICE github")
	d.run(exitOK, "test -method HEAD VAULT OFFICE github")
	d.run(exitOK, "test VAULT OFFICE github@1") // also what is in use
	out, _ = d.run(exitOK, "promote -json VAULT OFFICE github")
	require.JSONEq(t, `{"name":"github","version":3,"state":"current"}`, out)
	require.Equal(t, []string{"GET /user?a=b", "GET /", "HEAD /", "GET /"}, vendor.asked)

	// The host's log says when the old version was last used.
	host, err := audit.Open(d.path("hostlog"), nil)
	require.NoError(t, err)
	use := audit.Decision{ID: audit.NewID(), Effect: audit.Allow}
	call, err := host.Begin(t.Context(), audit.Intent{
		Door: audit.DoorTool, Action: "github__list", Resource: `Tool::"github__list"`, Actor: audit.Actor{Agent: "standup"},
		Decision: use, Credential: &audit.CredentialUse{Name: "github", Decision: use},
	})
	require.NoError(t, err)
	require.NoError(t, call.End(t.Context(), audit.Outcome{Status: audit.StatusOK, CredentialVersion: 1}))
	require.NoError(t, host.Close())
	out, _ = d.run(exitOK, "last-use -log @hostlog -json github")
	var uses []credential.VersionUse
	require.NoError(t, json.Unmarshal([]byte(out), &uses))
	require.Len(t, uses, 1)
	require.EqualValues(t, 1, uses[0].Version)
	require.Equal(t, "standup", uses[0].Agent)
	out, _ = d.run(exitOK, "last-use -log @hostlog github")
	require.Regexp(t, `1 +1 +20.*Z  standup`, out)
	out, _ = d.run(exitOK, "last-use -log @hostlog -json slack")
	require.Equal(t, "[]\n", out)

	d.run(exitFailed, "destroy VAULT OFFICE github@1") // not before it is revoked
	d.run(exitOK, "revoke VAULT OFFICE github@1")
	_, errs = d.run(exitFailed, "test VAULT OFFICE github@1")
	require.Contains(t, errs, "github@1 is revoked")
	require.Len(t, vendor.asked, 4, "what is revoked is not sent")
	d.run(exitOK, "destroy VAULT OFFICE github@1")
	out, _ = d.run(exitOK, "list -json VAULT -log @log")
	var all []shown
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	require.Len(t, all, 1)
	require.Equal(t, vendor.URL, all[0].Binding.Origin)
	var states []credential.State
	for _, v := range all[0].Versions {
		states = append(states, v.State)
	}
	require.Equal(t, []credential.State{credential.StateDestroyed, credential.StateDestroyed, credential.StateCurrent}, states)
	out, _ = d.run(exitOK, "show VAULT github")
	require.Contains(t, out, `"vendor's_page"`)
	d.run(exitFailed, "show VAULT slack")

	resource := ` Credential::"github" ann`
	require.Equal(t, []string{
		`create_vault Vault::"` + d.path("vault") + `" ann`,
		"put_credential" + resource, "bind_credential" + resource,
		"test_credential" + resource, "rotate_credential" + resource,
		"put_credential" + resource, "test_credential" + resource, "destroy_credential" + resource,
		"test_credential" + resource, "test_credential" + resource,
		"put_credential" + resource, "test_credential" + resource, "test_credential" + resource, "rotate_credential" + resource,
		"revoke_credential" + resource, "test_credential" + resource, "destroy_credential" + resource,
	}, d.acts())

	var known credential.Scrubber
	for _, s := range []string{first, second, wrong} {
		require.NoError(t, known.Add("put", credential.NewSecret([]byte(s))))
	}
	credentialtest.AssertNoLeak(t, &known, d.all.Bytes(), d.files("log"), d.files("vault"))
}

// An old file of the vault is refused, until somebody answers for it.
func TestRestored(t *testing.T) {
	d := newDesk(t)
	d.run(exitOK, "create VAULT OFFICE")
	old := d.files("vault")
	d.in = credentialtest.Canary()
	d.run(exitOK, "put VAULT OFFICE github")
	d.run(exitOK, "list VAULT -log @log")
	d.run(exitUsage, "list VAULT -log @lag")
	require.NoDirExists(t, d.path("lag"), "a log that is made now would know of no newer save")
	d.run(exitUsage, "last-use -log @lag github")
	d.write("vault", string(old))
	for _, line := range []string{"put VAULT OFFICE github", "list VAULT -log @log", "promote VAULT OFFICE github@1"} {
		_, errs := d.run(exitFailed, line)
		require.Contains(t, errs, "an old file has been put back")
	}
	require.Equal(t, string(old), string(d.files("vault")))
	d.run(exitUsage, "restored VAULT -by ann")
	d.run(exitOK, "restored VAULT OFFICE")
	d.run(exitOK, "put VAULT OFFICE github")
	require.Contains(t, d.acts(), `restore_vault Vault::"`+d.path("vault")+`" ann`)
}

// Another vault in the place of this one, of the same key, is refused if somebody
// says which one is meant.
func TestVaultID(t *testing.T) {
	d := newDesk(t)
	out, _ := d.run(exitOK, "create VAULT OFFICE")
	id := regexp.MustCompile("its id is ([0-9a-f]{32}):").FindStringSubmatch(out)[1]
	out, _ = d.run(exitOK, "list VAULT -vault-id "+id)
	require.True(t, strings.HasPrefix(out, "vault "+id+"\n"), out)
	require.NoError(t, os.Rename(d.path("vault"), d.path("first")))
	d.run(exitOK, "create VAULT OFFICE")
	d.in = credentialtest.Canary()
	for _, line := range []string{"put VAULT OFFICE github", "list VAULT", "restored VAULT OFFICE"} {
		_, errs := d.run(exitFailed, strings.Replace(line, "VAULT", "VAULT -vault-id "+id, 1))
		require.Contains(t, errs, "another vault is in the place")
		d.run(exitOK, line)
	}
	d.run(exitUsage, "list -keyring x -vault-id "+id)
}

func TestSecretIsNotTaken(t *testing.T) {
	d := newDesk(t)
	d.run(exitOK, "create VAULT OFFICE")
	d.in = "some-secret-bytes"
	for _, line := range []string{
		"put VAULT OFFICE", "put VAULT OFFICE one two", "put VAULT OFFICE one@1", "put VAULT OFFICE a//b", "put VAULT -by ann -log @log one",
		"put OFFICE one", "promote VAULT OFFICE one@x", "promote VAULT OFFICE one@0", "revoke VAULT OFFICE one", "destroy VAULT OFFICE one",
		"bind VAULT OFFICE one", "bind -spec @x -origin https://a.example VAULT OFFICE one", "test -method POST VAULT OFFICE one",
		"test -path user -origin https://a.example VAULT OFFICE one@1", "last-use one", "list VAULT one", "show VAULT",
	} {
		d.run(exitUsage, line)
	}
	for _, line := range []string{
		"promote VAULT OFFICE one", "revoke VAULT OFFICE one@1", "bind -origin https://a.example VAULT OFFICE one", "bind -origin http://a.example VAULT OFFICE one",
		"bind -spec @absent VAULT OFFICE one",
	} {
		d.run(exitFailed, line)
	}
	for _, in := range []string{"", "\n", "short", strings.Repeat("x", credential.MaxLength+1), strings.Repeat("x", 2*credential.MaxLength)} {
		d.in = in
		d.run(exitFailed, "put VAULT OFFICE one")
	}
	d.in = strings.Repeat("x", credential.MaxLength) + "\r\n"
	d.run(exitOK, "put VAULT OFFICE one")
	out, _ := d.run(exitOK, "list -json VAULT")
	require.Equal(t, 1, strings.Count(out, `"pending"`))
	assert.Equal(t, []string{`create_vault Vault::"` + d.path("vault") + `" ann`, `put_credential Credential::"one" ann`}, d.acts())
}
