package openbao_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/openbao"
)

// A host logs in with AppRole. Here the server is sealed, and the error says so.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"errors":["Vault is sealed"]}`))
	}))
	defer server.Close()

	login := openbao.AppRole("a-role-id", credential.NewSecret([]byte("a-secret-id")))
	store, err := openbao.New(server.URL, login, &openbao.Options{Folder: "agents"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	_, _, err = store.Get(context.Background(), credential.Ref{Name: "github"})
	fmt.Println(err)
	fmt.Println("try again later:", errors.Is(err, openbao.ErrUnavailable))
	// Output:
	// openbao: login: the server is sealed: unseal it (status 503)
	// try again later: true
}
