package egress

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// A problem is what a program is told about a request that was not carried out.
// It says how to go on, and nothing about policy.
type problem struct {
	Error      string   `json:"error"`
	Detail     string   `json:"detail"`
	Reason     string   `json:"reason"`
	Host       string   `json:"host"`
	Method     string   `json:"method"`
	Path       string   `json:"path"`
	DecisionID string   `json:"decision_id,omitempty"`
	NextSteps  []string `json:"next_steps,omitempty"`
}

// advice is what a program can do about each cause.
var advice = map[string]string{
	CauseMethod:   "Do without this method here, or ask the operator to allow it for this host.",
	CausePath:     "Do without this path, or ask the operator to allow it for this host and method.",
	CauseDeny:     "The operator has ruled this request out. Find another way.",
	CauseSpelling: "Write the path in one plain way: no backslashes, no encoded slashes with dots, nothing encoded twice.",
	CauseRequest:  "Send a plain request: a path as its target, and each header once and as HTTP has it.",
	CauseOverride: "Use the method itself on the path itself, without a header or parameter that overrides it.",
	CauseUpgrade:  "Speak HTTP/1.1 or HTTP/2 from the beginning. Of upgrades only one at a time is passed on, such as websocket.",
	CauseHost:     "Make a connection of its own for each host.",
}

// refuse answers and records that a request is not allowed.
func (x *exchange) refuse(rw http.ResponseWriter, d audit.Decision, detail string) {
	facts := []string{"method", short(x.method), "path", short(x.path)}
	if detail != "" {
		facts = append(facts, "detail", short(detail))
	}
	x.door.rec.deny(x.door.ctx, x.target, d, requestDenialsEach, facts...)
	p := problem{Error: "policy_denied", Detail: "This request is not allowed here.", Reason: d.Reason, DecisionID: d.ID}
	if step, ok := advice[d.Reason]; ok {
		p.NextSteps = []string{step}
	} else {
		p.Reason = "denied" // which policy it was is for the auditor
		p.NextSteps = []string{"Ask the operator, and name the decision."}
	}
	status := http.StatusForbidden
	switch d.Reason {
	case CauseHost:
		status = http.StatusMisdirectedRequest
		rw.Header().Set("Connection", "close")
	case CauseRequest:
		status = http.StatusBadRequest
		rw.Header().Set("Connection", "close")
	}
	x.answer(rw, status, p)
}

// answer sends p, to a gRPC client in the way of gRPC.
func (x *exchange) answer(rw http.ResponseWriter, status int, p problem) {
	p.Host, p.Method, p.Path = x.host, short(x.method), short(x.path)
	h := rw.Header()
	h.Set("Cache-Control", "no-store")
	if x.grpc {
		code := 7 // PERMISSION_DENIED
		if status >= 500 {
			code = 14 // UNAVAILABLE
		}
		text := strings.TrimSpace(p.Detail + " " + strings.Join(p.NextSteps, " "))
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(code))
		h.Set("Grpc-Message", strings.ReplaceAll(url.QueryEscape(text), "+", "%20"))
		if p.DecisionID != "" {
			h.Set("Decision-Id", p.DecisionID)
		}
		rw.WriteHeader(http.StatusOK)
		return
	}
	b, _ := json.Marshal(p)
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	rw.WriteHeader(status)
	rw.Write(append(b, '\n'))
}
