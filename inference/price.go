package inference

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// MicroUSD is an amount of money in millionths of a US dollar. In YAML it is
// written in dollars, with up to six decimals: 0.15 are 150,000 of them. It is
// never a floating-point number, on no way.
type MicroUSD int64

const (
	microsPerUSD = 1_000_000
	// maxUSD bounds amounts in a configuration, so that sums of a few of them
	// cannot overflow.
	maxUSD = 1_000_000_000
	// pricedTokens is how many tokens a [Price] is for.
	pricedTokens = 1_000_000
)

var errUSD = fmt.Errorf("want dollars of 0 to %d, with at most six decimals, such as 3 or 0.15", maxUSD)

// ParseUSD reads an amount in dollars.
func ParseUSD(s string) (MicroUSD, error) {
	whole, part, point := strings.Cut(s, ".")
	if whole == "" || len(whole) > 10 || point && part == "" || len(part) > 6 || strings.Trim(whole+part, "0123456789") != "" {
		return 0, errUSD
	}
	var n int64
	for _, c := range whole + part + strings.Repeat("0", 6-len(part)) {
		n = n*10 + int64(c-'0')
	}
	if n > maxUSD*microsPerUSD {
		return 0, errUSD
	}
	return MicroUSD(n), nil
}

// String is the amount in dollars, in the form that [ParseUSD] reads.
func (m MicroUSD) String() string {
	sign, n := "", uint64(m)
	if m < 0 {
		sign, n = "-", -n
	}
	return sign + strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%06d", n/microsPerUSD, n%microsPerUSD), "0"), ".")
}

// UnmarshalYAML reads dollars, as they are written: a parser's number could be
// rounded already.
func (m *MicroUSD) UnmarshalYAML(text []byte) error {
	s := string(bytes.TrimSpace(text))
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		s = s[1 : n-1]
	}
	n, err := ParseUSD(s)
	if err != nil {
		return fmt.Errorf("%q: %w", s[:min(len(s), 40)], err)
	}
	*m = n
	return nil
}

// A Price is what a model costs for a million tokens of each kind. A kind that
// is left out costs as much as the one that contains it: CacheRead and
// CacheWrite as Input, Reasoning as Output. Providers ask more than Input for
// CacheWrite: say so where they do.
type Price struct {
	Input      MicroUSD `yaml:"input"`
	CacheRead  MicroUSD `yaml:"cache_read"`
	CacheWrite MicroUSD `yaml:"cache_write"`
	Output     MicroUSD `yaml:"output"`
	Reasoning  MicroUSD `yaml:"reasoning"`
	// Free: the model costs nothing, such as one on the host's own machine. A
	// price of nothing else than zeros must say so.
	Free bool `yaml:"free"`
}

func (p Price) validate() error {
	all := []MicroUSD{p.Input, p.CacheRead, p.CacheWrite, p.Output, p.Reasoning}
	sum := MicroUSD(0)
	for _, m := range all {
		if m < 0 || m > maxUSD*microsPerUSD {
			return errUSD
		}
		sum += m
	}
	switch {
	case p.Free && sum > 0:
		return errors.New("free and a price: leave one of them out")
	case !p.Free && (p.Input == 0 || p.Output == 0):
		return errors.New("input and output need a price each; write free: true for a model that costs nothing")
	}
	return nil
}

// filled puts in what was left out.
func (p Price) filled() Price {
	for kind, like := range map[*MicroUSD]MicroUSD{&p.CacheRead: p.Input, &p.CacheWrite: p.Input, &p.Reasoning: p.Output} {
		if *kind == 0 {
			*kind = like
		}
	}
	return p
}

// highestInput is the dearest way to read a token.
func (p Price) highestInput() MicroUSD {
	p = p.filled()
	return max(p.Input, p.CacheRead, p.CacheWrite)
}

// highestOutput is the dearest way to write one.
func (p Price) highestOutput() MicroUSD {
	p = p.filled()
	return max(p.Output, p.Reasoning)
}

// Cost is what the tokens of u cost, rounded up to a whole micro-dollar. What
// does not fit is the largest amount there is. Negative counts are none.
func (p Price) Cost(u audit.Usage) MicroUSD {
	p = p.filled()
	out := max(u.Output, 0)
	reasoning := min(max(u.Reasoning, 0), out)
	var s sum
	s.add(u.Input, p.Input)
	s.add(u.CacheRead, p.CacheRead)
	s.add(u.CacheWrite, p.CacheWrite)
	s.add(out-reasoning, p.Output)
	s.add(reasoning, p.Reasoning)
	return s.cost()
}

// atMost is what so many tokens cost, whatever kinds of input and output they
// turn out to be.
func (p Price) atMost(input, output int64) MicroUSD {
	var s sum
	s.add(input, p.highestInput())
	s.add(output, p.highestOutput())
	return s.cost()
}

// A sum adds up tokens times prices in 128 bits.
type sum struct {
	hi, lo uint64
	over   bool
}

func (s *sum) add(tokens int64, price MicroUSD) {
	hi, lo := bits.Mul64(uint64(max(tokens, 0)), uint64(max(price, 0)))
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, carry = bits.Add64(s.hi, hi, carry)
	s.over = s.over || carry > 0
}

func (s *sum) cost() MicroUSD {
	lo, carry := bits.Add64(s.lo, pricedTokens-1, 0)
	hi := s.hi + carry
	if s.over || hi >= pricedTokens {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, pricedTokens)
	return MicroUSD(min(q, math.MaxInt64))
}

// addSaturating adds amounts that are not negative.
func addSaturating[T ~int64](a, b T) T {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// mulSaturating multiplies what is not negative.
func mulSaturating(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return a * b
}
