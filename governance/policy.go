package governance

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// A policy is one compiled policy. It is immutable.
type policy struct {
	id       string
	cedar    *cedar.Policy
	text     string // as written, for messages
	start    int    // offset of text in its file
	src      *Source
	pos      string
	forbid   bool
	profile  string       // the profile whose ceiling this is, "" for what people wrote
	ref      audit.Policy // how decisions name it
	duties   []audit.Obligation
	rate     Rate // of duties
	observed bool // evaluated and never applied
	readTags bool
	expires  time.Time // from @expires; zero is never
	where    *lines    // of its file
	atRandom bool      // its failures may be told in several ways

	principal, action, resource cedarx.Scope
}

// generatedPrefix begins the ids of policies that are made from profiles.
const generatedPrefix = "profile:"

var policyID = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// parsePolicies parses one file. Everything that is wrong goes to rep.
func parsePolicies(src *Source, rep *Report) []*policy {
	where := newLines(src.Text)
	before := len(rep.Findings)
	bad := func(code string, offset int, id, msg, fix string) {
		line, col := where.at(offset)
		rep.add(Finding{Code: code, Severity: SeverityError, File: src.Name, Line: line, Column: col, Policy: id, Message: msg, Fix: fix})
	}
	spans, scanErr := splitPolicies(src.Text)
	if scanErr != nil {
		bad("syntax", scanErr.offset, "", scanErr.msg, scanErr.fix)
		return nil
	}
	if at, r := hiddenIn(src.Text); at >= 0 {
		bad("hidden-character", at, "", hiddenMessage(r), fmt.Sprintf(`remove it, or write \u{%x} in a text`, r))
	}
	var out []*policy
	for _, sp := range spans {
		if len(rep.Findings)-before > maxFindings {
			break // the compiler says so
		}
		text := src.Text[sp.start:sp.end]
		p, err := parseOne(src.Name, text)
		if err != nil {
			offset, msg := parseError(text, err)
			bad("syntax", sp.start+offset, "", msg, "see https://docs.cedarpolicy.com/policies/syntax-grammar.html")
			continue
		}
		p.start, p.src, p.where = sp.start, src, &where
		line, col := where.at(sp.start)
		p.pos = fmt.Sprintf("%s:%d:%d", src.Name, line, col)
		switch {
		case p.id == "":
			bad("policy-id", sp.start, "", "a policy has no @id", `write @id("what-it-says") before it; decisions and the audit log name it`)
			continue
		case len(p.id) > 128 || !policyID.MatchString(p.id):
			bad("policy-id", sp.start, p.id, "the @id is not usable", "use 1 to 128 of A-Z, a-z, 0-9, _, ., / and -")
			continue
		case audit.IsGuard(p.id):
			bad("policy-id", sp.start, p.id, "the @id is what decisions call a guard's refusal", "choose a name that says what the policy is for")
			continue
		}
		for _, problem := range p.annotate() {
			bad("annotation", sp.start+problem.offset, p.id, problem.msg, problem.fix)
		}
		p.expire()
		out = append(out, p)
	}
	return out
}

// parseOne parses text that holds exactly one policy.
func parseOne(file, text string) (*policy, error) {
	list, err := cedar.NewPolicyListFromBytes(file, []byte(text))
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("%d policies where one was expected", len(list))
	}
	c := list[0]
	p := &policy{
		id:       string(c.Annotations()["id"]),
		cedar:    c,
		text:     text,
		forbid:   c.Effect() == cedar.Forbid,
		readTags: cedarx.ReadsTags(c),
		atRandom: cedarx.ErrsAtRandom(c),
	}
	p.principal, p.action, p.resource = cedarx.Scopes(c)
	return p, nil
}

var parsePos = regexp.MustCompile(`<input>:(\d+):(\d+):? ?`)

// parseError turns cedar-go's "<input>:line:col" into an offset into text.
func parseError(text string, err error) (offset int, msg string) {
	msg = err.Error()
	m := parsePos.FindStringSubmatch(msg)
	if m == nil {
		return 0, msg
	}
	line, _ := strconv.Atoi(m[1])
	col, _ := strconv.Atoi(m[2])
	for range line - 1 {
		offset += strings.IndexByte(text[offset:], '\n') + 1
	}
	for range col - 1 {
		for offset++; offset < len(text) && text[offset]&0xc0 == 0x80; offset++ {
		}
	}
	msg = parsePos.ReplaceAllString(msg, "")
	return min(offset, len(text)), strings.TrimSpace(strings.Replace(msg, "parse error at", "does not parse at", 1))
}

// nearby is a fix hint that names the known word closest to word.
func nearby(word string, known []string) string {
	best, cost := "", len(word)/2+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d <= cost && (best == "" || d < cost) {
			best, cost = k, d
		}
	}
	if best == "" {
		if len(known) == 0 {
			return "there are none"
		}
		if len(known) > 12 {
			return fmt.Sprintf("there are %d known ones; check the spelling", len(known))
		}
		return "known are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("did you mean %s?", best)
}

// distance is the edit distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}
