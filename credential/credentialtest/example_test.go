package credentialtest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// What your code does while the vault is down.
func ExampleWrap() {
	t := new(testing.T) // a test has its own
	vault := credentialtest.Wrap(credentialtest.NewVault(t, nil, map[string]string{"github": credentialtest.Canary()}))
	vault.Fail(errors.New("sealed"))
	_, err := vault.Lease(context.Background(), credential.LeaseRequest{Credential: "github"})
	fmt.Println(err)
	fmt.Println("asked for", vault.Asked()[0].Credential)
	// Output:
	// sealed
	// asked for github
}
