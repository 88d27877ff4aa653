package filevault_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/filevault"
)

// A vault in a file, with the audit log as the witness of its saves.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "vault")
	check(err)
	defer os.RemoveAll(dir)
	log, err := audit.Open(filepath.Join(dir, "log"), nil)
	check(err)
	defer log.Close()
	kek, err := filevault.CreateIdentity(filepath.Join(dir, "key"))
	check(err)
	path := filepath.Join(dir, "vault")
	opts := &filevault.Options{Witness: filevault.LogWitness(log)}
	store, err := filevault.Create(ctx, path, kek, opts)
	check(err)

	// People change secrets through a broker, which keeps the records.
	broker, err := credential.NewBroker(store, log, nil)
	check(err)
	defer broker.Close()
	by := audit.Change{By: "alice@example.com", Reason: "OPS-112"}
	ref, err := broker.Put(ctx, "github", credential.NewSecret([]byte("ghp_example0123456789")), "from the vendor's page", by)
	check(err)
	old, err := os.ReadFile(path)
	check(err)
	check(broker.Promote(ctx, ref, by))
	versions, err := store.List(ctx, "")
	check(err)
	fmt.Println(versions[0].Ref, versions[0].State)

	// Somebody puts the old file back.
	check(os.WriteFile(path, old, 0o600))
	_, err = filevault.Open(ctx, path, kek, opts)
	fmt.Println(errors.Is(err, filevault.ErrRollback))
	// Output:
	// github@1 current
	// true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
