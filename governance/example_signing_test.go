package governance_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/governance"
)

// A host that takes only what an author and a reviewer have signed.
func ExampleSignBundle() {
	key := func(name string) (note.Signer, note.Verifier) {
		skey, vkey, _ := note.GenerateKey(rand.Reader, name)
		signer, _ := note.NewSigner(skey) // kept by that person
		verifier, _ := note.NewVerifier(vkey)
		return signer, verifier
	}
	alice, aliceKey := key("alice")
	bob, bobKey := key("bob")
	host := &governance.Options{Signers: &governance.Signers{
		Authors:   []note.Verifier{aliceKey},
		Reviewers: []note.Verifier{bobKey},
	}}

	folder := fstest.MapFS{"policies/connect.cedar": {Data: []byte(`@id("fetch")
permit (principal == Agent::"bot", action == Action::"connect", resource == Host::"api.example.com");
`)}}
	for _, person := range []note.Signer{alice, bob} {
		bundle, _ := governance.LoadBundle(folder)
		_, _, err := governance.Compile(context.Background(), bundle, host)
		fmt.Println(errors.Is(err, governance.ErrSignature))
		signed, _ := governance.SignBundle(bundle, person)
		folder[governance.SignatureFile] = &fstest.MapFile{Data: signed}
	}
	bundle, _ := governance.LoadBundle(folder)
	_, report, err := governance.Compile(context.Background(), bundle, host)
	fmt.Println(report.Author, report.Reviewer, err)

	// A word more, or a comment, is another bundle.
	file := folder["policies/connect.cedar"]
	file.Data = append(file.Data, "// reviewed\n"...)
	bundle, _ = governance.LoadBundle(folder)
	_, _, err = governance.Compile(context.Background(), bundle, host)
	fmt.Println(errors.Is(err, governance.ErrSignature))
	// Output:
	// true
	// true
	// alice bob <nil>
	// true
}
