package governance_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

func TestFactFindings(t *testing.T) {
	const good = `{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}`
	use := reading(`context.facts.n > 100`)
	for _, c := range []struct{ facts, policies, want string }{
		{`{name: N, kind: count_within, on: [chat__post], window: 1h, per: agent}`, "", `a fact is called "N"`},
		{`{name: in, kind: count_within, on: [chat__post], window: 1h, per: agent}`, "", `a fact is called "in"`},
		{`{name: n, kind: counts, on: [chat__post], window: 1h, per: agent}`, "", `has kind "counts"`},
		{`{name: n, kind: count_within, on: [], window: 1h, per: agent}`, "", `watches nothing`},
		{`{name: n, kind: count_within, on: [chat__pots], window: 1h, per: agent}`, "", `did you mean chat__post`},
		{`{name: n, kind: count_within, on: [chat__post], window: 25h, per: agent}`, "", `a window of 25h`},
		{`{name: n, kind: count_within, on: [chat__post], window: 1ms, per: agent}`, "", `a window of 1ms`},
		{`{name: n, kind: count_within, on: [chat__post], per: agent}`, "", `a window of 0s`},
		{`{name: n, kind: count_within, on: [chat__post], window: 1h}`, "", `is per ""`},
		{`{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent, of: /text}`, "", `of and kind`},
		{`{name: n, kind: sum_within, on: [bank__pay], window: 1h, per: agent}`, "", `of and kind`},
		{`{name: n, kind: sum_within, of: /to, on: [bank__pay], window: 1h, per: agent}`, "", `cannot be summed`},
		{`{name: n, kind: sum_within, of: /fee, on: [bank__pay], window: 1h, per: agent}`, "", `cannot be summed`},
		{`{name: n, kind: count_within, key: [/fee], on: [bank__pay, bank__refund], window: 1h, per: agent}`, "", `other types`},
		{`{name: n, kind: sum_within, of: amount, on: [bank__pay], window: 1h, per: agent}`, "", `no JSON Pointer`},
		{`{name: n, kind: distinct_within, of: /nix, on: [bank__pay], window: 1h, per: agent}`, "", `cannot be told apart`},
		{`{name: n, kind: formerly, on: [chat__post], window: 1h, per: agent}`, "", `counts ""`},
		{`{name: n, kind: since, on: [chat__post], window: 1h, per: agent, counts: started}`, "", `reset and kind`},
		{`{name: n, kind: count_within, key: [/to], on: [chat__post], window: 1h, per: agent}`, "", `no argument with one value`},
		{`{name: n, kind: count_within, key: [/to], on: [chat__edit, bank__pay], window: 1h, per: agent}`, "", `no argument with one value`},
		{`{name: n, kind: count_within, where: {/text: [1]}, on: [chat__post], window: 1h, per: agent}`, "", `cannot be 1`},
		{`{name: n, kind: count_within, where: {/text: []}, on: [chat__post], window: 1h, per: agent}`, "", `no value to compare`},
		{good + `, ` + good, use, `two facts are called "n"`},
		{good + `, ` + strings.Replace(good, "name: n", "name: m", 1), use, `are the same`},
		{good, reading(`context.facts.m > 1`), `m`},
		{good, "", `no policy reads the fact "n"`},
		{good, use + reading(`context.labels.contains("crn")`), `did you mean crm`},
		// A fact that is kept apart by an argument is there only where it is.
		{`{name: n, kind: count_within, key: [/channel], on: [chat__post], window: 1h, per: agent}`, use, `n`},
	} {
		b := shop("facts: ["+c.facts+"]", c.policies)
		for i := range b.Policies { // ids must differ
			b.Policies[i].Text = strings.Replace(b.Policies[i].Text, `@id("r0")`, `@id("first")`, 1)
		}
		_, rep, err := governance.Compile(t.Context(), b, &governance.Options{WarningsBlock: []string{"*"}})
		require.ErrorIs(t, err, governance.ErrBundle, c.facts)
		var text strings.Builder
		for _, f := range rep.Findings {
			text.WriteString(f.String() + "\n")
			assert.NotEmpty(t, f.Code, f.String())
			assert.NotZero(t, f.Line, f.String())
		}
		assert.Contains(t, text.String(), c.want)
	}
	// Policies about a group of which some tool lacks the key.
	_, _, err := governance.Compile(t.Context(), shop(`
facts: [{name: n, kind: count_within, key: [/channel], on: ["chat:write"], window: 1h, per: agent}]`,
		`@id("x") forbid (principal, action in Action::"chat:write", resource) when { context.facts.n > 3 };`), nil)
	assert.NoError(t, err)
}

func TestFactsInFolder(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	b, err := governance.LoadBundle(fstest.MapFS{
		"catalog/s.json":   file(`{"server":"s","tools":[{"name":"t","inputSchema":{"type":"object"},"class":"write","labels":["crm"]}]}`),
		"facts/n.yaml":     file("facts:\n  - name: n\n    kind: count_within\n    on: [s__t]\n    window: 90m\n    per: agent\n"),
		"policies/p.cedar": file(`@id("p") permit (principal, action == Action::"s__t", resource) when { context.facts.n < 3 };`),
	})
	require.NoError(t, err)
	require.Len(t, b.Facts, 1)
	assert.Equal(t, 90*time.Minute, b.Facts[0].Window)
	_, rep, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	assert.Empty(t, rep.Findings)

	_, err = governance.LoadBundle(fstest.MapFS{"facts/n.yaml": file("facts:\n  - name: n\n    kinds: x\n")})
	require.ErrorIs(t, err, governance.ErrBundle)
	assert.Contains(t, err.Error(), "facts/n.yaml:3:")
}

func TestFactsAreInTheHash(t *testing.T) {
	hash := func(facts string, change func(*governance.Bundle)) string {
		b := shop(facts, "")
		if change != nil {
			change(&b)
		}
		s, _, err := governance.Compile(t.Context(), b, nil)
		require.NoError(t, err)
		return s.Hash()
	}
	const f = `{name: n, kind: count_within, on: [chat__post], window: 1h, per: agent}`
	seen := map[string]bool{}
	for _, h := range []string{
		hash("facts: []", nil),
		hash("facts: ["+f+"]", nil),
		hash("facts: ["+strings.Replace(f, "1h", "2h", 1)+"]", nil),
		hash("facts: ["+strings.Replace(f, "agent", "session", 1)+"]", nil),
		hash("facts: []", func(b *governance.Bundle) { b.Catalog[1].Tools[0].Labels = nil }),
	} {
		assert.False(t, seen[h])
		seen[h] = true
	}
}

func FuzzParseFacts(f *testing.F) {
	f.Add([]byte("facts:\n  - name: n\n    kind: count_within\n    on: [s__t]\n    window: 90m\n    per: agent\n"))
	f.Add([]byte("facts: [{name: n, kind: since, on: [a], reset: [b], where: {/x: [1, a, true]}, key: [/a/b], window: 1h, per: session, counts: started}]"))
	f.Add([]byte("facts: [{window: 1}]"))
	f.Add([]byte("facts: [{where: {/x: [1.5, [a], {b: c}]}}]"))
	f.Add([]byte("facts: {a: b}"))
	base := shop("facts: []", "")
	f.Fuzz(func(t *testing.T, text []byte) {
		facts, err := governance.ParseFacts("f.yaml", text)
		if err != nil {
			require.ErrorIs(t, err, governance.ErrBundle)
			return
		}
		b := base
		b.Facts = facts
		s, rep, err := governance.Compile(t.Context(), b, nil)
		if err != nil {
			require.ErrorIs(t, err, governance.ErrBundle)
			require.NotEmpty(t, rep.Findings)
			return
		}
		again, _, err := governance.Compile(t.Context(), b, nil)
		require.NoError(t, err)
		require.Equal(t, s.Hash(), again.Hash())
	})
}
