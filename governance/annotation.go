package governance

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// The kinds of obligation, which are also the annotations that demand them.
const (
	// ObligationApproval: a person of the group agrees to the call first. A door
	// that can suspend a call lists it in Request.Enforces and follows
	// [Approval].
	ObligationApproval = "approval"
	// ObligationRate: no more than so many in a span of time. An [Engine] counts
	// by itself, so that doors need not list it.
	ObligationRate = "rate"
	// ObligationMaxBytes: an answer that is larger is withheld.
	ObligationMaxBytes = "max_bytes"
	// ObligationRedact: these places of the answer are blanked.
	ObligationRedact = "redact"
	// ObligationRecordPrompt: how much of a model call's prompt goes on record.
	// "digest" is a commitment, as without it; "redacted" keeps the prompt, without
	// what the host's inspectors blank.
	ObligationRecordPrompt = "record_prompt"
)

// The values of @record_prompt.
const (
	RecordDigest   = "digest"
	RecordRedacted = "redacted"
)

// An annotation is one that policies may have. Any other is an error: a
// misspelt obligation would be one that nobody asks for.
type annotation struct {
	// want says what is wrong with a value, or "".
	want func(value string) string
	// permits: it demands something, so it makes sense on a permit only.
	permits bool
}

var annotations = map[string]annotation{
	"id":               {want: anything},
	"owner":            {want: anything},
	"description":      {want: anything},
	"generated":        {want: anything},
	"reason":           {want: short},
	"severity":         {want: oneOfWords(gravities...)},
	"expires":          {want: parses(parseExpiry)},
	"mode":             {want: oneOfWords(modeObserve, modeEnforce)},
	ObligationApproval: {permits: true, want: group},
	ObligationRate:     {permits: true, want: parses(ParseRate)},
	ObligationMaxBytes: {permits: true, want: parses(parseMaxBytes)},
	ObligationRedact:   {permits: true, want: parses(ParseRedaction)},

	ObligationRecordPrompt: {permits: true, want: oneOfWords(RecordDigest, RecordRedacted)},
}

// The values of @mode.
const (
	modeObserve = "observe"
	modeEnforce = "enforce"
)

// gravities are the values of @severity, mildest first.
var gravities = []string{"info", "low", "medium", "high", "critical"}

// maxReason bounds what a policy may say about itself on every record.
const maxReason = 1 << 10

func anything(string) string { return "" }

func short(v string) string {
	if v == "" || len(v) > maxReason {
		return fmt.Sprintf("want a text of at most %d bytes", maxReason)
	}
	return ""
}

func oneOfWords(words ...string) func(string) string {
	return func(v string) string {
		if slices.Contains(words, v) {
			return ""
		}
		return "want one of " + strings.Join(words, ", ")
	}
}

func parses[T any](parse func(string) (T, error)) func(string) string {
	return func(v string) string {
		if _, err := parse(v); err != nil {
			return err.Error()
		}
		return ""
	}
}

var groupName = regexp.MustCompile(`^[A-Za-z0-9_.@/-]+$`)

func group(v string) string {
	if len(v) > 128 || !groupName.MatchString(v) {
		return "want the name of one group: 1 to 128 of A-Z, a-z, 0-9, _, ., @, / and -"
	}
	return ""
}

// annotate reads the annotations and returns what is wrong with them.
func (p *policy) annotate() []scanError {
	var bad []scanError
	p.ref = audit.Policy{ID: p.id, Position: p.pos}
	for key, value := range p.cedar.Annotations() {
		k, v := string(key), string(value)
		at := max(0, strings.Index(p.text, "@"+k))
		a, known := annotations[k]
		if !known {
			bad = append(bad, scanError{at, fmt.Sprintf("unknown annotation @%s", k), nearby(k, annotationNames())})
			continue
		}
		if a.permits && p.forbid {
			bad = append(bad, scanError{at, fmt.Sprintf("@%s on a forbid demands nothing", k), "put it on the permit"})
			continue
		}
		if why := a.want(v); why != "" {
			bad = append(bad, scanError{at, fmt.Sprintf("@%s(%q): %s", k, v, why), "see the package documentation"})
			continue
		}
		switch {
		case a.permits:
			p.duties = append(p.duties, audit.Obligation{Kind: k, Value: v, Policy: p.id})
			if k == ObligationRate {
				p.rate, _ = ParseRate(v) // checked above
			}
		case k == "mode":
			p.observed = v == modeObserve
		case k == "expires":
			p.expires, _ = parseExpiry(v)
		case k == "owner":
			p.ref.Owner = v
		case k == "severity":
			p.ref.Severity = v
		case k == "reason":
			p.ref.Reason = v
		}
	}
	slices.SortFunc(p.duties, func(a, b audit.Obligation) int { return strings.Compare(a.Kind, b.Kind) })
	slices.SortFunc(bad, func(a, b scanError) int { return a.offset - b.offset })
	return bad
}

func annotationNames() []string {
	names := make([]string, 0, len(annotations))
	for k := range annotations {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// Severity is the highest @severity of the policies that determined d, or "".
func (d Decision) Severity() string {
	worst := -1
	for _, p := range d.Policies {
		worst = max(worst, slices.Index(gravities, p.Severity))
	}
	if worst < 0 {
		return ""
	}
	return gravities[worst]
}
