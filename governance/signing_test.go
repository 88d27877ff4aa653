package governance_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/governance"
)

type person struct {
	note.Signer
	verifier note.Verifier
}

func newPerson(t *testing.T, name string) person {
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	require.NoError(t, err)
	s, err := note.NewSigner(skey)
	require.NoError(t, err)
	v, err := note.NewVerifier(vkey)
	require.NoError(t, err)
	return person{s, v}
}

// sign lets people sign a folder, one after the other.
func sign(t *testing.T, fsys fstest.MapFS, people ...person) fstest.MapFS {
	fsys = maps.Clone(fsys)
	for _, p := range people {
		b, err := governance.LoadBundle(fsys)
		require.NoError(t, err)
		text, err := governance.SignBundle(b, p.Signer)
		require.NoError(t, err)
		fsys[governance.SignatureFile] = &fstest.MapFile{Data: text}
	}
	return fsys
}

func TestSignedBundles(t *testing.T) {
	alice, bob, carol, mallory := newPerson(t, "alice"), newPerson(t, "bob"), newPerson(t, "carol"), newPerson(t, "mallory")
	alice2 := newPerson(t, "alice") // another key of the same name
	signers := &governance.Signers{
		Authors:   []note.Verifier{alice.verifier, carol.verifier},
		Reviewers: []note.Verifier{bob.verifier, carol.verifier, alice2.verifier},
	}
	plain := folder(t, map[string]string{"tests/a.json": "{}"})
	changed := func(fsys fstest.MapFS, name, text string) fstest.MapFS {
		fsys = maps.Clone(fsys)
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
		return fsys
	}
	edited := func(fsys fstest.MapFS, old, new string) fstest.MapFS {
		text := string(fsys[governance.SignatureFile].Data)
		require.Contains(t, text, old)
		return changed(fsys, governance.SignatureFile, strings.Replace(text, old, new, 1))
	}
	good := sign(t, plain, alice, bob)
	standup := string(plain["policies/standup.cedar"].Data)
	for _, c := range []struct {
		name             string
		folder           fstest.MapFS
		author, reviewer string
		why              string
	}{
		{"author and reviewer", good, "alice", "bob", ""},
		{"a reviewer who may be an author", sign(t, plain, alice, carol), "alice", "carol", ""},
		{"an author who may be a reviewer", sign(t, plain, carol, bob), "carol", "bob", ""},
		{"a third signature", sign(t, plain, alice, mallory, bob), "alice", "bob", ""},
		{"a file that is no part", changed(good, "README.md", "x"), "alice", "bob", ""},

		{"nobody", plain, "", "", "it has no bundle.note"},
		{"no reviewer", sign(t, plain, alice), "", "", "nobody but its author alice has signed it"},
		{"no author", sign(t, plain, bob, carol), "", "", "bob is its author, and no author's key"},
		{"strangers", sign(t, plain, mallory), "", "", "bundle.note: note has no verifiable signatures"},
		{"a stranger as reviewer", sign(t, plain, alice, mallory), "", "", "nobody but its author alice"},
		{"a policy is changed", changed(good, "policies/standup.cedar", strings.Replace(standup, "#engineering", "#executive", 1)), "", "", "is about other files"},
		{"a comment is changed", changed(good, "policies/standup.cedar", standup+"// x\n"), "", "", "is about other files"},
		{"a test is changed", changed(good, "tests/a.json", "{ }"), "", "", "is about other files"},
		{"a policy is added", changed(good, "policies/new.cedar", `@id("x") permit (principal, action, resource);`), "", "", "is about other files"},
		{"a policy is moved", func() fstest.MapFS {
			fsys := changed(good, "policies/other.cedar", standup)
			delete(fsys, "policies/standup.cedar")
			return fsys
		}(), "", "", "is about other files"},
		{"the author is renamed", edited(good, "author alice", "author bob"), "", "", "bundle.note"},
		{"half a note", edited(good, "\n\n— ", "\n— "), "", "", "bundle.note: malformed note"},
		{"an empty note", changed(plain, governance.SignatureFile, " "), "", "", "bundle.note"},
	} {
		b, err := governance.LoadBundle(c.folder)
		require.NoError(t, err, c.name)
		snap, rep, err := governance.Compile(t.Context(), b, &governance.Options{Signers: signers})
		if c.why == "" {
			require.NoError(t, err, c.name)
			assert.Equal(t, [2]string{c.author, c.reviewer}, [2]string{rep.Author, rep.Reviewer}, c.name)
			continue
		}
		assert.Nil(t, snap, c.name)
		require.ErrorIs(t, err, governance.ErrSignature, c.name)
		require.ErrorIs(t, err, governance.ErrBundle, c.name)
		assert.ErrorContains(t, err, c.why, c.name)
		require.Len(t, rep.Findings, 1)
		assert.Equal(t, "signature", rep.Findings[0].Code)
		_, _, err = governance.Compile(t.Context(), b, nil)
		assert.NoError(t, err, "a host that asks for none: %s", c.name)
	}

	// The same name is the same person, whatever the key.
	b, err := governance.LoadBundle(sign(t, plain, alice))
	require.NoError(t, err)
	_, err = governance.SignBundle(b, alice2)
	assert.ErrorContains(t, err, "alice has signed as its author")
	body, _, _ := strings.Cut(string(good[governance.SignatureFile].Data), "\n\n")
	text, err := note.Sign(&note.Note{Text: body + "\n"}, alice.Signer, alice2.Signer)
	require.NoError(t, err)
	b, err = governance.LoadBundle(changed(plain, governance.SignatureFile, string(text)))
	require.NoError(t, err)
	_, _, err = governance.Compile(t.Context(), b, &governance.Options{Signers: signers})
	assert.ErrorContains(t, err, "nobody but its author alice")

	// What is signed is what was loaded.
	b, err = governance.LoadBundle(good)
	require.NoError(t, err)
	b.Policies = append(slices.Clone(b.Policies), governance.Source{Name: "more.cedar", Text: `@id("more") permit (principal == Agent::"x", action, resource);`})
	_, _, err = governance.Compile(t.Context(), b, &governance.Options{Signers: signers})
	assert.ErrorContains(t, err, "changed in memory")
	_, err = governance.SignBundle(b, bob)
	assert.ErrorContains(t, err, "only a bundle as LoadBundle returned it can be signed")
	_, _, err = governance.Compile(t.Context(), only("x"), &governance.Options{Signers: signers})
	assert.ErrorContains(t, err, "made in Go")
	b, err = governance.LoadBundle(good)
	require.NoError(t, err)
	_, _, err = governance.Compile(t.Context(), b, &governance.Options{Signers: &governance.Signers{}})
	assert.ErrorIs(t, err, governance.ErrSignature, "nobody may sign")

	// A note about other files is not signed further.
	b, err = governance.LoadBundle(changed(good, "tests/a.json", "{ }"))
	require.NoError(t, err)
	_, err = governance.SignBundle(b, bob)
	assert.ErrorContains(t, err, "is about other files")
}

// The digest can be had with sha256sum.
func TestDigestIsThatOfSha256sum(t *testing.T) {
	fsys := folder(t, nil)
	b, err := governance.LoadBundle(fsys)
	require.NoError(t, err)
	var list strings.Builder
	for _, name := range slices.Sorted(maps.Keys(fsys)) {
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256(fsys[name].Data), name)
	}
	assert.Equal(t, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(list.String()))), b.Digest())
	if _, err := exec.LookPath("sha256sum"); err != nil {
		return
	}
	cmd := exec.Command("sh", "-c", "LC_ALL=C find catalog policies profiles -type f | LC_ALL=C sort | xargs sha256sum | sha256sum")
	cmd.Dir = "testdata/standup"
	out, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, b.Digest(), "sha256:"+strings.Fields(string(out))[0])
}

// Who signed what is in force goes on record with it.
func TestReloadRecordsSigners(t *testing.T) {
	alice, bob := newPerson(t, "alice"), newPerson(t, "bob")
	log := &recorder{}
	engine := governance.NewEngine(log, &governance.Options{Signers: &governance.Signers{
		Authors: []note.Verifier{alice.verifier}, Reviewers: []note.Verifier{bob.verifier}}})
	b, err := governance.LoadBundle(sign(t, folder(t, nil), alice, bob))
	require.NoError(t, err)
	_, err = engine.Reload(t.Context(), b, change)
	require.NoError(t, err)
	_, err = engine.Stage(t.Context(), b, change)
	require.NoError(t, err)
	require.NoError(t, engine.Promote(t.Context(), engine.Staged().Hash(), change))
	require.Len(t, log.events, 3)
	for _, ev := range log.events {
		assert.Equal(t, "alice", ev.Detail["author"])
		assert.Equal(t, "bob", ev.Detail["reviewer"])
		assert.Equal(t, b.Digest(), ev.Detail["bundle"])
	}
	hash := engine.Hash()
	unsigned, err := governance.LoadBundle(folder(t, nil))
	require.NoError(t, err)
	for _, load := range []func() error{
		func() error { _, err := engine.Reload(t.Context(), unsigned, change); return err },
		func() error { _, err := engine.Stage(t.Context(), unsigned, change); return err },
	} {
		assert.ErrorIs(t, load(), governance.ErrSignature)
	}
	assert.Equal(t, hash, engine.Hash())
	assert.Len(t, log.events, 3)
}

// An engine whose policy was not confirmed in time denies, until it is.
func TestFreshUntil(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	engine := governance.NewEngine(&recorder{}, &governance.Options{Clock: func() time.Time { return now }})
	_, err := engine.Reload(t.Context(), only("p"), change)
	require.NoError(t, err)
	allowed := func() bool {
		d, err := engine.Decide(t.Context(), request)
		if d.Allowed() {
			require.NoError(t, err)
			return true
		}
		require.ErrorIs(t, err, governance.ErrStale)
		assert.Equal(t, "stale-policy", d.Reason)
		assert.Equal(t, engine.Hash(), d.PolicyHash)
		assert.Equal(t, `Tool::"s__t"`, d.Resource)
		return false
	}
	assert.True(t, allowed(), "no bound")
	engine.FreshUntil(now.Add(time.Minute))
	assert.True(t, allowed())
	now = now.Add(time.Minute)
	assert.False(t, allowed())
	_, err = engine.Reload(t.Context(), only("q"), change)
	require.NoError(t, err)
	assert.False(t, allowed(), "a reload confirms nothing")
	engine.FreshUntil(now.Add(time.Second))
	assert.True(t, allowed())
	engine.FreshUntil(time.Time{})
	now = now.Add(time.Hour)
	assert.True(t, allowed())
	var none *governance.Engine
	none.FreshUntil(now)
}
