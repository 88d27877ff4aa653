package inference

import (
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/strictyaml"
)

func TestDollarsAreReadExactly(t *testing.T) {
	for text, want := range map[string]MicroUSD{
		"0": 0, "3": 3_000_000, "3.00": 3_000_000, "0.15": 150_000, "0.000001": 1, "1000000000": maxUSD * microsPerUSD, "0.1": 100_000,
	} {
		got, err := ParseUSD(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
		again, err := ParseUSD(got.String())
		require.NoError(t, err, text)
		assert.Equal(t, want, again, text)
	}
	for _, text := range []string{"", ".", ".5", "5.", "-1", "+1", "1e3", "0.0000001", "1_000", "1,5", "1000000000.000001", "99999999999", "0x10", " 1", "$1", "1.2.3", "٣"} {
		_, err := ParseUSD(text)
		assert.Error(t, err, text)
	}
	assert.Equal(t, "-0.5", MicroUSD(-500_000).String())
	assert.Equal(t, "-9223372036854.775808", MicroUSD(math.MinInt64).String())
}

func TestCostRoundsUpAndNeverOverflows(t *testing.T) {
	p := Price{Input: 3_000_000, CacheRead: 300_000, CacheWrite: 3_750_000, Output: 15_000_000}
	assert.EqualValues(t, 0, p.Cost(audit.Usage{}))
	assert.EqualValues(t, 1, Price{Input: 1, Output: 1}.Cost(audit.Usage{Input: 1}), "a part of a micro-dollar is one")
	assert.EqualValues(t, 1, Price{Input: 1, Output: 1}.Cost(audit.Usage{Input: 500_000, Output: 500_000}), "it is rounded once")
	assert.EqualValues(t, 3*25+90+27+15*15, p.Cost(audit.Usage{Input: 25, CacheRead: 300, CacheWrite: 7, Output: 15}), "26.25 is 27")
	assert.EqualValues(t, 15*10+30*5, Price{Input: 1, Output: 15_000_000, Reasoning: 30_000_000}.Cost(audit.Usage{Output: 15, Reasoning: 5}))
	assert.EqualValues(t, 15*15, p.Cost(audit.Usage{Output: 15, Reasoning: 5}), "reasoning is a part of the output")
	assert.EqualValues(t, 3*10, Price{Input: 3_000_000, Output: 1}.Cost(audit.Usage{CacheRead: 5, CacheWrite: 5}), "what has no price of its own costs what contains it")
	assert.EqualValues(t, 0, p.Cost(audit.Usage{Input: -5, Output: -7, Reasoning: -9}), "nobody earns")
	assert.EqualValues(t, math.MaxInt64, p.Cost(audit.Usage{Input: math.MaxInt64, Output: math.MaxInt64, CacheRead: math.MaxInt64}))
	assert.EqualValues(t, 0, Price{Free: true}.Cost(audit.Usage{Input: math.MaxInt64}))

	// Against a calculation without bounds.
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	n := func() int64 { return r.Int64() >> r.IntN(63) }
	for range 2000 {
		p := Price{Input: MicroUSD(1 + n()>>14), CacheRead: MicroUSD(1 + n()>>14), CacheWrite: MicroUSD(1 + n()>>14), Output: MicroUSD(1 + n()>>14), Reasoning: MicroUSD(1 + n()>>14)}
		u := audit.Usage{Input: n(), CacheRead: n(), CacheWrite: n(), Output: n(), Reasoning: n()}
		reasoning := min(u.Reasoning, u.Output)
		want := new(big.Int)
		for _, part := range [][2]int64{{u.Input, int64(p.Input)}, {u.CacheRead, int64(p.CacheRead)}, {u.CacheWrite, int64(p.CacheWrite)}, {u.Output - reasoning, int64(p.Output)}, {reasoning, int64(p.Reasoning)}} {
			want.Add(want, new(big.Int).Mul(big.NewInt(part[0]), big.NewInt(part[1])))
		}
		want.Add(want, big.NewInt(pricedTokens-1)).Quo(want, big.NewInt(pricedTokens))
		if !want.IsInt64() {
			want.SetInt64(math.MaxInt64)
		}
		require.Equal(t, want.Int64(), int64(p.Cost(u)), "%+v of %+v", u, p)
		if input := addSaturating(addSaturating(u.Input, u.CacheRead), u.CacheWrite); input < math.MaxInt64 {
			require.GreaterOrEqual(t, p.atMost(input, u.Output), p.Cost(u), "an estimate is at most too high")
		}
	}
}

// spendOf reads the spend section as a configuration does.
func spendOf(text string) (Spend, error) {
	var s Spend
	if err := strictyaml.Unmarshal("spend.yaml", []byte(text), maxConfig, &s); err != nil {
		return s, err
	}
	return s, s.validate()
}

const spendYAML = `
prices:
  claude/opus: {input: 3.00, cache_read: "0.30", cache_write: 3.75, output: 15, reasoning: 15}
  local/*: {free: true}
  "*": {input: 100, output: 0.000001} # dear
max_output: {claude/opus: 32000, "*": 4096}
budgets:
  - {name: daily, per: agent, window: day, usd: 5.50, tokens: 2000000}
  - {name: ops, per: team, of: [ops], window: month, usd: 100}
  - {name: once, per: host, window: request, tokens: 100000}
rates:
  - {name: calls, per: agent, requests: 60}
  - {name: words, per: user, tokens: 100000}
bytes_per_token: 4
unfinished: seen
`

func TestSpendIsReadStrictly(t *testing.T) {
	s, err := spendOf(spendYAML)
	require.NoError(t, err)
	assert.Equal(t, Price{Input: 3_000_000, CacheRead: 300_000, CacheWrite: 3_750_000, Output: 15_000_000, Reasoning: 15_000_000}, s.Prices["claude/opus"])
	assert.Equal(t, Price{Input: 100_000_000, Output: 1}, s.Prices["*"])
	assert.Equal(t, Budget{Name: "daily", Per: PerAgent, Window: WindowDay, Tokens: 2_000_000, USD: 5_500_000}, s.Budgets[0])
	p, ok := lookup(s.Prices, "local", "any")
	assert.True(t, ok && p.Free)
	p, ok = lookup(s.Prices, "claude", "other")
	assert.True(t, ok && p.Input == 100_000_000, "the stated default")
	_, ok = lookup(map[string]Price{"claude/opus": {}}, "claude", "other")
	assert.False(t, ok)

	for text, why := range map[string]string{
		`prices: {opus: {input: 1, output: 1}}`:                           "backend/model",
		`prices: {a/b: {input: 1}}`:                                       "free: true",
		`prices: {a/b: {}}`:                                               "free: true",
		`prices: {a/b: {free: true, input: 1}}`:                           "leave one of them out",
		`prices: {a/b: {input: -1, output: 1}}`:                           "dollars",
		`prices: {a/b: {input: 1e3, output: 1}}`:                          "dollars",
		`prices: {a/b: {input: .inf, output: 1}}`:                         "dollars",
		`prices: {a/b: {input: 0.0000001, output: 1}}`:                    "dollars",
		`prices: {a/b: {input: 1, output: 1, ouput: 1}}`:                  "unknown field",
		`prices: {a/b: {input: 1, output: 1}, a/b: {free: true}}`:         "already defined",
		`max_output: {a/b: 0}`:                                            "tokens",
		`budgets: [{name: A, per: agent, window: day, usd: 1}]`:           "name",
		`budgets: [{name: a, per: agents, window: day, usd: 1}]`:          "per",
		`budgets: [{name: a, per: agent, window: week, usd: 1}]`:          "window",
		`budgets: [{name: a, per: agent, window: day}]`:                   "required",
		`budgets: [{name: a, per: agent, window: day, tokens: -1}]`:       "at least 0",
		`budgets: [{name: a, per: host, of: [x], window: day, usd: 1}]`:   "per host",
		`budgets: [{name: a, per: agent, of: [""], window: day, usd: 1}]`: "none empty",
		`rates: [{name: a, per: agent}]`:                                  "required",
		`rates: [{name: a, per: agent, requests: 100000001}]`:             "at most",
		`bytes_per_token: 9`:                                              "bytes_per_token",
		`max_input: {a: 1}`:                                               "max_input",
		`image_tokens: {a/b: 0}`:                                          "image_tokens",
		`budgets: [{name: a, per: agent, of: [` + strings.Repeat("x, ", 1024) + `x], window: day, usd: 1}]`: "at most 1024",
		`unfinished: never`: "unfinished",
		`budgets: [{name: a, per: agent, window: day, usd: 1}, {name: a, per: user, window: day, usd: 1}]`: "twice",
	} {
		_, err := spendOf(text)
		require.Error(t, err, text)
		assert.Contains(t, err.Error(), why, text)
	}
}

// Whatever is read can be calculated with.
func FuzzSpend(f *testing.F) {
	f.Add(spendYAML)
	f.Add(`prices: {"*": {input: 1000000000, output: 1000000000}}`)
	f.Add(`rates: [{name: a, per: host, requests: 100000000, tokens: 1}]`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := spendOf(text)
		if err != nil {
			return
		}
		for _, p := range s.Prices {
			c := p.Cost(audit.Usage{Input: math.MaxInt64, Output: math.MaxInt64, Reasoning: math.MaxInt64})
			if c < 0 || !p.Free && c == 0 || p.atMost(math.MaxInt64, math.MaxInt64) < c {
				t.Fatalf("%+v costs %d", p, c)
			}
		}
		who := payer{actor: audit.Actor{Agent: "a", User: "u"}, profiles: []string{"p"}, teams: []string{"t"}}
		l := newLimiter(maxBuckets)
		if uses, err := l.take(s.Rates, who, math.MaxInt64, noon); err == nil {
			l.settle(uses, 0)
		}
		for _, c := range s.claims(who, noon) {
			if c.Account == "" || c.Budget == "" || !c.Ends.IsZero() && !c.Ends.After(noon) {
				t.Fatalf("%+v", c)
			}
		}
	})
}
