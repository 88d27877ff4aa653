package governance_test

import (
	"maps"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

// An engine that is asked for versions never goes back, whatever is signed.
func TestNoStepBack(t *testing.T) {
	alice, bob := newPerson(t, "alice"), newPerson(t, "bob")
	signers := &governance.Signers{Authors: []note.Verifier{alice.verifier}, Reviewers: []note.Verifier{bob.verifier}}
	bundle := func(version, policy string) governance.Bundle {
		changes := map[string]string{"policies/x.cedar": `@id("` + policy + `") permit (principal, action, resource);`}
		if version != "" {
			changes[governance.VersionFile] = version
		}
		b, err := governance.LoadBundle(sign(t, folder(t, changes), alice, bob))
		require.NoError(t, err)
		return b
	}
	log := audittest.NewLog(t)
	e := governance.NewEngine(log, &governance.Options{Signers: signers, MinVersion: 3})
	by := audit.Change{By: "alice", Reason: "r"}
	reload := func(version, policy string) error {
		_, err := e.Reload(t.Context(), bundle(version, policy), by)
		return err
	}
	for _, c := range []struct {
		version, policy string
		in              uint64 // force, afterwards
	}{
		{"", "none", 0},
		{"2\n", "two", 0},
		{"3\n", "three", 3},
		{"7", "seven", 7},
		{"6", "six", 7},
		{"", "none", 7},
		{"7\r\n", "again", 7},
		{"10", "ten", 10},
	} {
		before := e.Hash()
		err := reload(c.version, c.policy)
		if e.Hash() == before {
			require.ErrorIs(t, err, governance.ErrOlderBundle, c.policy)
		} else {
			require.NoError(t, err, c.policy)
		}
		assert.Equal(t, c.in, e.Snapshot().Version(), c.policy)
	}
	var versions []string
	for _, r := range log.Records() {
		versions = append(versions, r.Event.Detail["bundle_version"])
	}
	assert.Equal(t, []string{"3", "7", "7", "10"}, versions, "on record is what took effect")

	// What is staged does no harm, and cannot be promoted.
	_, err := e.Stage(t.Context(), bundle("9", "nine"), by)
	require.NoError(t, err)
	require.ErrorIs(t, e.Promote(t.Context(), e.Staged().Hash(), by), governance.ErrOlderBundle)
	assert.EqualValues(t, 10, e.Snapshot().Version())
	_, err = e.Stage(t.Context(), bundle("11", "eleven"), by)
	require.NoError(t, err)
	require.NoError(t, e.Promote(t.Context(), e.Staged().Hash(), by))
	assert.EqualValues(t, 11, e.Snapshot().Version())

	// Where nobody asks, the version is a note.
	e = governance.NewEngine(audittest.NewLog(t), nil)
	require.NoError(t, reload("7", "seven"))
	require.NoError(t, reload("6", "six"))
	require.NoError(t, reload("", "none"))
	assert.Zero(t, e.Snapshot().Version())
}

// The version is signed with the rest, and is not of what decides.
func TestVersionIsSigned(t *testing.T) {
	alice, bob := newPerson(t, "alice"), newPerson(t, "bob")
	opts := &governance.Options{Signers: &governance.Signers{Authors: []note.Verifier{alice.verifier}, Reviewers: []note.Verifier{bob.verifier}}}
	signed := sign(t, folder(t, map[string]string{governance.VersionFile: "5"}), alice, bob)
	b, err := governance.LoadBundle(signed)
	require.NoError(t, err)
	five, _, err := governance.Compile(t.Context(), b, opts)
	require.NoError(t, err)

	b.Version = 6
	_, _, err = governance.Compile(t.Context(), b, opts)
	require.ErrorIs(t, err, governance.ErrSignature)

	raised := maps.Clone(signed)
	raised[governance.VersionFile] = &fstest.MapFile{Data: []byte("6")}
	b, err = governance.LoadBundle(raised)
	require.NoError(t, err)
	_, _, err = governance.Compile(t.Context(), b, opts)
	require.ErrorIs(t, err, governance.ErrSignature)
	six, _, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	assert.EqualValues(t, 6, six.Version())
	assert.Equal(t, five.Hash(), six.Hash())

	for _, odd := range []string{" ", "0", "-1", "1.5", "07", "1 2", "x", "9223372036854775808", "1\n2"} {
		_, err := governance.LoadBundle(folder(t, map[string]string{governance.VersionFile: odd}))
		require.ErrorIs(t, err, governance.ErrBundle, odd)
		assert.ErrorContains(t, err, "bundle.version:1:1", odd)
	}
}
