package governance

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// Demands are the obligations of a decision, combined: whatever one of its
// permits demands is demanded, and the strictest wins.
type Demands struct {
	// MaxBytes is the smallest limit on the answer in bytes; 0 is none.
	MaxBytes int64
	// Redact blanks the places that any permit names.
	Redact Redaction
	// Rates are all rates, sorted by policy. Two rates are not compared: each
	// counts the calls that its own policy permits, and all must have room.
	Rates []PolicyRate
	// Approvals are all groups of which a person has to agree, sorted.
	Approvals []string
	// RecordPrompt is [RecordDigest], [RecordRedacted] or "". A digest that any
	// permit demands wins.
	RecordPrompt string
}

// A PolicyRate is the rate of one policy.
type PolicyRate struct {
	Policy string
	Rate   Rate
}

// Demands returns the decision's obligations combined. The error is not nil for
// an obligation that this version does not know or cannot read, which a door
// must treat as one that it cannot meet.
func (d Decision) Demands() (Demands, error) { return CombineObligations(d.Obligations) }

// CombineObligations combines obligations, as [Decision.Demands] does.
func CombineObligations(list []audit.Obligation) (Demands, error) {
	var out Demands
	for _, o := range list {
		var err error
		switch o.Kind {
		case ObligationMaxBytes:
			var n int64
			if n, err = parseMaxBytes(o.Value); err == nil && (out.MaxBytes == 0 || n < out.MaxBytes) {
				out.MaxBytes = n
			}
		case ObligationRedact:
			var r Redaction
			if r, err = ParseRedaction(o.Value); err == nil {
				out.Redact = out.Redact.union(r)
			}
		case ObligationRate:
			var r Rate
			if r, err = ParseRate(o.Value); err == nil {
				out.Rates = append(out.Rates, PolicyRate{o.Policy, r})
			}
		case ObligationApproval:
			if !slices.Contains(out.Approvals, o.Value) {
				out.Approvals = append(out.Approvals, o.Value)
			}
		case ObligationRecordPrompt:
			switch {
			case o.Value != RecordDigest && o.Value != RecordRedacted:
				err = fmt.Errorf("want %s or %s", RecordDigest, RecordRedacted)
			case out.RecordPrompt != RecordDigest:
				out.RecordPrompt = o.Value
			}
		default:
			err = errors.New("unknown kind of obligation")
		}
		if err != nil {
			return Demands{}, fmt.Errorf("governance: obligation %s %q of policy %q: %w", o.Kind, o.Value, o.Policy, err)
		}
	}
	slices.SortFunc(out.Rates, func(a, b PolicyRate) int { return strings.Compare(a.Policy, b.Policy) })
	slices.Sort(out.Approvals)
	return out, nil
}

// parseMaxBytes reads the value of @max_bytes.
func parseMaxBytes(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n <= 0 {
		return 0, errors.New("want a number of bytes above 0")
	}
	return n, nil
}

// A Rate allows Count uses in any span of Per.
type Rate struct {
	Count int
	Per   time.Duration
}

// The limits of a [Rate].
const (
	maxRateCount = 10_000
	minRatePer   = time.Second
	maxRatePer   = 24 * time.Hour
)

// ParseRate reads a rate such as "10/1m": a count of 1 to 10,000, and a Go
// duration of a second to 24 hours.
func ParseRate(s string) (Rate, error) {
	count, per, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(count)
	d, err2 := time.ParseDuration(per)
	if !ok || err != nil || err2 != nil || n < 1 || n > maxRateCount || d < minRatePer || d > maxRatePer {
		return Rate{}, fmt.Errorf(`want a count of 1 to %d and a duration of 1s to 24h, such as "10/1m"`, maxRateCount)
	}
	return Rate{n, d}, nil
}

// String is the rate in the form that [ParseRate] reads.
func (r Rate) String() string { return strconv.Itoa(r.Count) + "/" + r.Per.String() }
