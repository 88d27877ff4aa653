package inference

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twinward-dev/twinward/governance"
)

const (
	// maxFault bounds the body of an error that is read, and maxWords what is told of
	// its message, in bytes.
	maxFault = 64 << 10
	maxWords = 2 << 10
)

// A fault is what agents are told of a backend's error: its type, its code, the
// parameter that it is about and its message, in the shape of the protocol. What
// else its body holds stays here, and so does what in its words is of the host's
// account.
type fault struct {
	typ, code, param, message string
	retry                     string // Gemini: when to ask again, such as "3.5s"
}

// readFault finds the words in the forms of error that servers use.
func readFault(body []byte) fault {
	var root any
	if json.Unmarshal(body, &root) != nil {
		if text := strings.TrimSpace(string(body)); len(text) <= maxWords && utf8.ValidString(text) && !strings.HasPrefix(text, "<") {
			return fault{message: discreet(text)} // of a gateway; a page is not for agents
		}
		return fault{}
	}
	if list, ok := root.([]any); ok && len(list) > 0 { // Gemini's streams
		root = list[0]
	}
	top, _ := root.(map[string]any)
	e, ok := top["error"].(map[string]any)
	if !ok {
		e = top // such as {"object":"error","message":…}, {"error":"…"} or {"detail":"…"}
	}
	f := fault{typ: label(e["type"]), code: label(e["code"]), param: label(e["param"])}
	if status := label(e["status"]); status != "" {
		f.typ = status // Gemini's
	}
	for _, key := range []string{"message", "detail", "error"} {
		if s, ok := e[key].(string); ok && f.message == "" {
			f.message = discreet(s)
		}
	}
	details, _ := e["details"].([]any)
	for _, d := range details {
		info, _ := d.(map[string]any)
		if delay, ok := info["retryDelay"].(string); ok && delayRE.MatchString(delay) {
			f.retry = delay
		}
	}
	return f
}

var (
	labelRE = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]{1,100}$`)
	delayRE = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,9})?s$`)
)

// label is a word of the protocol, or none.
func label(v any) string {
	switch v := v.(type) {
	case string:
		if labelRE.MatchString(v) && discreet(v) == v {
			return v
		}
	case float64:
		if v == float64(int(v)) && v >= 0 && v < 1000 {
			return strconv.Itoa(int(v))
		}
	}
	return ""
}

// body is the fault as p's clients expect an error of this status.
func (f fault) body(p Protocol, status int) []byte {
	ref := refusal{status: status, code: f.code, message: f.message}
	if f.message == "" {
		ref.message = fmt.Sprintf("the backend answered with status %d", status)
	}
	shape := ref.shape(p)
	e := shape["error"].(map[string]any)
	switch p {
	case Gemini:
		set(e, "status", f.typ)
		if f.retry != "" {
			e["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f.retry}}
		}
	case Anthropic:
		set(e, "type", f.typ)
	default:
		set(e, "type", f.typ)
		set(e, "param", f.param)
		if f.code == "" {
			e["code"] = nil
		}
	}
	return encode(shape)
}

func set(e map[string]any, key, value string) {
	if value != "" {
		e[key] = value
	}
}

// indiscreet are what the words of providers hold that is of the host's account:
// URLs, which may have keys and projects in them, resources, ids and what of
// keys they quote, addresses of people and machines, and whatever is long enough to be a key. Some of
// it only counts with a digit, or with letters in both cases, in it.
var (
	indiscreet = regexp.MustCompile(`(?i)` + strings.Join([]string{
		`\b[a-z][a-z0-9+.-]*://[^\s"'<>]+`,
		`\barn:[^\s"'<>]+`,
		`\b(?:projects|organizations|folders|billingaccounts|accounts|subscriptions|resourcegroups|tenants|project_number|project)[/:#][^\s"'<>,]+`,
		`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`,
		`[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+`,
		`\bbearer\s+[^\s"'<>,]+`,
		`\b[0-9]{10,}\b`,
		`\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]+)?\b`,
	}, "|"))
	suspect = regexp.MustCompile(strings.Join([]string{
		`\b(?:sk|pk|rk|ak|key|org|orgs|proj|project|acct|account|user|team|ws|wrkspc|workspace|nvapi|gsk|xai|hf|r8|AIza|AKIA|ASIA|ya29)[-_.]?[A-Za-z0-9*_.-]{6,}`,
		`\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+`,
		`[A-Za-z0-9_*+/=-]{40,}`,
	}, "|"))
)

// discreet returns a text of a provider without what is of the host's account.
func discreet(text string) string {
	text = indiscreet.ReplaceAllString(text, governance.Redacted)
	text = suspect.ReplaceAllStringFunc(text, func(s string) string {
		mixed := strings.ContainsAny(s, "0123456789*") || strings.ToLower(s) != s && strings.ToUpper(s) != s
		if mixed {
			return governance.Redacted
		}
		return s
	})
	if len(text) > maxWords {
		text = strings.ToValidUTF8(text[:maxWords], "") + "…"
	}
	return text
}

// discreetJSON returns a JSON text of a provider with strings that are discreet, in
// the protocol's messages of errors. The others are not changed, for they may be a
// model's.
func discreetJSON(text []byte) ([]byte, error) {
	q := &queued{data: text}
	err := eachString(text, func(lo, hi int, path []string) {
		if key := textKey(path); key != "message" && key != "detail" && key != "error" && !slices.Contains(path, "error") {
			return
		}
		s, err := unquote(text[lo:hi])
		if told := discreet(s); err == nil && told != s {
			q.pieces = append(q.pieces, &piece{lo: lo, hi: hi, text: told, changed: true})
		}
	})
	return q.appendTo(nil), err
}

// discreetEvent returns an event that reports an error as agents are told it.
func discreetEvent(ev []byte, p Protocol) []byte {
	fr := readFrame(ev)
	if fr.at >= 0 {
		if told, err := discreetJSON(fr.data); err == nil {
			return slices.Concat(ev[:fr.at], told, ev[fr.at+len(fr.data):])
		}
	}
	return refusal{status: http.StatusBadGateway, code: "upstream-error-event", message: "the backend reported an error"}.event(p)
}
