package argument

import (
	"errors"
	"regexp"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

var (
	mailLocal = regexp.MustCompile(`^[A-Za-z0-9_#$&'*+/=?^{|}~` + "`" + `-]+(\.[A-Za-z0-9_#$&'*+/=?^{|}~` + "`" + `-]+)*$`)
	mailName  = regexp.MustCompile(`^[^<>@,;:()"\\[\]\x00-\x1f\x7f]*$`)
)

// emailDomains finds the domains of addresses. It knows the plain form only: no
// comments, quoted or routed local parts, groups or address literals, which mail
// programs read differently.
func emailDomains(s string) (types.Value, error) {
	odd := errors.New("not e-mail addresses in their plain form")
	var set []types.Value
	if strings.Contains(s, "=?") { // an encoded word, which some decode before they look for "@"
		return nil, odd
	}
	for one := range strings.SplitSeq(s, ",") {
		if len(set) == MaxSet {
			return nil, errors.New("too many e-mail addresses")
		}
		one = strings.Trim(one, " ")
		if name, rest, ok := strings.Cut(one, "<"); ok {
			addr, end := strings.CutSuffix(rest, ">")
			if !end || !mailName.MatchString(name) {
				return nil, odd
			}
			one = addr
		}
		local, domain, ok := strings.Cut(one, "@")
		if !ok || len(local) > 64 || !mailLocal.MatchString(local) || strings.HasPrefix(domain, "[") {
			return nil, odd
		}
		host, err := CanonicalHost(domain)
		if err != nil || IsAddress(host) {
			return nil, odd
		}
		set = append(set, types.String(host))
	}
	return types.NewSet(set...), nil
}

var sqlWord = regexp.MustCompile(`^[A-Za-z]+`)

// sqlVerb finds the first word of a single SQL statement.
func sqlVerb(s string) (types.Value, error) {
	odd := errors.New("not a single SQL statement that begins with a word")
	if strings.ContainsAny(s, "\x00\v\f") {
		return nil, odd
	}
	rest := strings.TrimRight(s, " \t\r\n")
	if strings.Contains(strings.TrimSuffix(rest, ";"), ";") {
		return nil, errors.New("a semicolon inside an SQL statement")
	}
	for {
		rest = strings.TrimLeft(rest, " \t\r\n")
		switch {
		case strings.HasPrefix(rest, "--"):
			comment, after, ok := strings.Cut(rest, "\n")
			// MySQL wants a space; PostgreSQL ends a comment at a carriage return.
			if !ok || len(comment) > 2 && comment[2] != ' ' && comment[2] != '\t' || strings.Contains(strings.TrimSuffix(comment, "\r"), "\r") {
				return nil, odd
			}
			rest = after
		case strings.HasPrefix(rest, "/*"):
			comment, after, ok := strings.Cut(rest[2:], "*/")
			// MySQL runs /*!, MariaDB /*M!; PostgreSQL nests comments, and one may
			// begin with the end of this one: "/*/".
			if !ok || strings.HasPrefix(comment, "!") || strings.HasPrefix(comment, "M!") || strings.Contains(comment+"*/", "/*") {
				return nil, odd
			}
			rest = after
		default:
			verb := sqlWord.FindString(rest)
			after := rest[len(verb):]
			if verb == "" || after != "" && !strings.ContainsAny(after[:1], " \t\r\n;(*'\"-/") {
				return nil, odd
			}
			return types.String(strings.ToUpper(verb)), nil
		}
	}
}

// folded makes text equal that differs in case, width, style or invisible
// characters only.
func folded(s string) (types.Value, error) {
	s = strings.Map(func(r rune) rune {
		if invisible(r) {
			return -1
		}
		return r
	}, s)
	s = norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s)))
	if len(s) > MaxText {
		return nil, errors.New("a text that grows too long when it is folded")
	}
	return types.String(s), nil
}
