package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// CodeDenied is the JSON-RPC error code of a refused request other than
// tools/call. It lies outside the range that JSON-RPC and MCP reserve.
const CodeDenied = -31403

// DenialKey is where a refused tools/call carries its [Denial], in the result's
// _meta.
const DenialKey = "dev.twinward/denial"

// A Denial is what an agent is told about a refusal.
type Denial struct {
	// DecisionID is what the agent's people give to the auditor.
	DecisionID string `json:"decision_id"`
	// Reason is one of a few stable words: "policy", "arguments", "revoked",
	// "pin-drift", "no-actor", "credential", "audit", "upstream-down", ….
	Reason string `json:"reason"`
	// Retryable says whether the same call may succeed later.
	Retryable bool `json:"retryable"`
	// NextStep says what a well-meaning agent should do now.
	NextStep string `json:"next_step"`
}

// Why an allowed call was not answered, besides the guards in [audit]. These go
// on record as [audit.Outcome.ErrorCode], if at all.
const (
	codeAudit   = "audit" // what was decided cannot be recorded
	codeTimeout = "timeout"
)

// A refusal is a no on its way to the record and to the agent.
type refusal struct {
	governance.Decision
	reason    string // for the agent; "" derives it from Decision.Reason
	text      string // for the agent; "" takes Decision.Hint
	retryable bool
	detail    map[string]string // for the auditor
}

// Error makes a refusal the error that [governor.call] returns.
func (r refusal) Error() string { return "mcpx: refused: " + r.Reason }

// refused makes a refusal of a guard that spoke before policy was asked.
func refused(guard string) refusal {
	return refusal{Decision: governance.Decision{Decision: audit.Refusal(audit.NewID(), guard)}}
}

// decided makes a refusal of a denial.
func decided(d governance.Decision) refusal {
	return refusal{Decision: d, retryable: d.Reason == audit.GuardRate}
}

// denial is what the agent is told. It is derived from the kind of cause only,
// never from policy text.
func (r refusal) denial() Denial {
	reason := r.reason
	if reason == "" {
		reason = agentReason(r.Reason)
	}
	d := Denial{DecisionID: r.ID, Reason: reason, Retryable: r.retryable}
	switch reason {
	case "policy":
		d.NextStep = "Do not repeat this call. Other arguments or another tool may be allowed; otherwise ask the person you work for, and give them the decision id."
	case audit.GuardArguments:
		d.NextStep = "Correct the arguments so that they fit the tool's input schema, and call again."
	case audit.GuardApproval:
		if r.retryable {
			d.NextStep = "Ask the person you work for to have it approved, and then make exactly the same call again."
		} else {
			d.NextStep = "Do not repeat this call. Ask the person you work for, and give them the decision id."
		}
	case audit.GuardPinDrift:
		d.NextStep = "This tool has changed since it was approved. Use another one; an operator has to review it."
	case audit.GuardRevoked, audit.GuardNoActor:
		d.NextStep = "Stop. An operator has to let this agent in again."
	default:
		if r.retryable {
			d.NextStep = "Try again later, or tell the person you work for, with the decision id."
		} else {
			d.NextStep = "Tell the person you work for, with the decision id."
		}
	}
	return d
}

// agentReason maps a cause to a word that says nothing about policy.
func agentReason(cause string) string {
	switch cause {
	case audit.GuardNoActor, audit.GuardActor, audit.GuardToken:
		return audit.GuardNoActor
	case audit.GuardRevoked, audit.GuardPinDrift, audit.GuardObligation, audit.GuardApproval, audit.GuardRate, audit.GuardCredential,
		audit.GuardMethod, audit.GuardUnknown, audit.GuardNoSnapshot,
		audit.GuardHeaders, audit.GuardOrigin, audit.GuardSession, audit.GuardSize, audit.GuardMedia, audit.GuardLimit, audit.GuardState, codeAudit:
		return cause
	case audit.GuardStrictJSON, audit.GuardArguments:
		return audit.GuardArguments
	case audit.GuardPanic, audit.GuardDeadline:
		return "internal"
	}
	return "policy"
}

func (r refusal) message() string {
	text := r.text
	if text == "" {
		text = r.Hint
	}
	if text == "" {
		text = "This is not allowed."
	}
	return fmt.Sprintf("%s (%s, decision %s)", text, r.denial().Reason, r.ID)
}

// result is the answer to a refused tools/call.
func (r refusal) result(modern bool) *mcp.CallToolResult {
	res := new(mcp.CallToolResult)
	if modern {
		// The SDK keeps the result's type to itself, but reads it back.
		_ = res.UnmarshalJSON([]byte(`{"resultType":"complete","content":[]}`))
	}
	res.Content = []mcp.Content{&mcp.TextContent{Text: r.message()}}
	res.IsError = true
	res.Meta = mcp.Meta{DenialKey: r.denial()}
	return res
}

// err is the answer to any other refused request.
func (r refusal) err(method, name string) error {
	switch {
	case method == methodGetPrompt && r.Hidden:
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("unknown prompt %q", name)}
	case (method == methodReadResource || method == methodSubscribe || method == methodListen) && r.Hidden:
		return mcp.ResourceNotFoundError(name)
	case r.Reason == audit.GuardMethod:
		return &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: fmt.Sprintf("method %q is not available here", clip(method, 64))}
	}
	data, _ := json.Marshal(r.denial())
	if r.Reason == audit.GuardState { // which is no call at all
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: r.message(), Data: data}
	}
	return &jsonrpc.Error{Code: CodeDenied, Message: r.message(), Data: data}
}

// unknownTool is the SDK's own answer for a tool that does not exist.
func unknownTool(name string) error {
	return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("unknown tool %q", name)}
}

// A failure is an allowed call that could not be done. Its code goes on record,
// its text to the agent: neither holds anything that the other side said.
type failure struct {
	code      string
	text      string
	retryable bool
}

func (f *failure) Error() string { return "mcpx: " + f.code + ": " + f.text }

func failed(code, text string, retryable bool) error {
	return &failure{code: code, text: text, retryable: retryable}
}

func asFailure(err error) (*failure, bool) {
	var f *failure
	ok := errors.As(err, &f)
	return f, ok
}

// record puts a refusal on record. A refusal that cannot be recorded is still a
// refusal; the operator's log says so.
func record(ctx context.Context, log audit.Recorder, logger *slog.Logger, ev audit.Event) {
	if err := log.Append(context.WithoutCancel(ctx), ev); err != nil {
		logger.Error("mcpx: a refusal could not be recorded", "action", ev.Action, "reason", ev.Decision.Reason, "error", err)
	}
}

// clip bounds what a client may put into a record or a message.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// quoteJoin joins parts so that no two lists give the same text.
func quoteJoin(parts ...string) string {
	var buf [256]byte // most need no more, and then no memory is asked for
	b := buf[:0]
	for _, p := range parts {
		b = append(strconv.AppendQuote(b, p), ' ')
	}
	return string(b)
}
