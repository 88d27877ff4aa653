package otlp

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/entity"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// logRecord is the record as a log of OTLP.
func (e *Exporter) logRecord(r audit.Record) (logRecord, error) {
	line, err := r.Line()
	if err != nil {
		return logRecord{}, err
	}
	out := logRecord{
		Time: nanos(r.Time), Observed: nanos(r.Time), Severity: info, Body: text(string(visible.JSON(line))),
		Attributes: attributes{{recordUID, text(e.uid(r.Seq))}},
	}
	trace := ""
	switch {
	case r.Intent != nil:
		out.EventName, trace = eventIntent, r.Intent.Trace
		out.Attributes.act(r)
	case r.Event != nil:
		out.EventName, trace = eventPrefix+string(r.Event.Kind), r.Event.Trace
		out.Severity = cmp.Or(kinds[r.Event.Kind], info)
		out.Attributes.act(r)
	default:
		out.EventName = eventOutcome
		if r.Outcome.Status == audit.StatusFailed {
			out.Severity = warn
		}
		out.Attributes.str(attrCall, e.uid(r.Call))
		out.Attributes.outcome(r.Outcome)
	}
	out.SeverityText = out.Severity.String()
	parent, _ := audit.ParseTrace(trace) // agents send it
	out.TraceID, out.SpanID, out.Flags = parent.ID(), parent.Span(), uint32(parent.Flags())
	return out, nil
}

// uid names a record among those of all logs. It is the same whenever the record
// is sent.
func (e *Exporter) uid(seq uint64) string {
	return e.origin + "#" + strconv.FormatUint(seq, 10)
}

// span is a call whose outcome is known.
func (e *Exporter) span(intent, outcome audit.Record) span {
	in, out := intent.Intent, outcome.Outcome
	s := span{Kind: kindInternal, Name: in.Action, Start: nanos(intent.Time), End: nanos(outcome.Time)}
	if outcome.Time.Before(intent.Time) { // the clock was set back
		s.End = nanos(intent.Time.Add(out.Latency))
	}
	s.Attributes = attributes{{recordUID, text(e.uid(intent.Seq))}}
	s.Attributes.act(intent)
	s.Attributes.outcome(out)
	kind, name := entity.Split(in.Resource)
	switch in.Door {
	case audit.DoorTool:
		s.Kind, s.Name = kindServer, method(in.Action)
		if kind == "Tool" || kind == "Prompt" {
			s.Name += " " + name
		}
	case audit.DoorModel:
		s.Kind = kindClient
		if op := operations[in.Action]; op != "" {
			_, model := provider(name)
			s.Name = op + " " + model
		}
	}
	if out.Status != audit.StatusOK {
		s.Status.Code = statusError
	}
	parent, _ := audit.ParseTrace(in.Trace)
	sum := sha256.Sum256([]byte(e.uid(intent.Seq))) // so that sending it again is the same span
	s.TraceID = cmp.Or(parent.ID(), hex.EncodeToString(sum[:16]))
	s.SpanID, s.ParentSpanID, s.Flags = hex.EncodeToString(sum[16:24]), parent.Span(), uint32(parent.Flags())
	return s
}

// act adds what an intent or an event is about.
func (a *attributes) act(r audit.Record) {
	who, d := r.Actor(), r.Decision()
	a.str(agentID, who.Agent)
	a.str(userID, who.User)
	a.str(sessionID, who.Session)
	a.str(attrInstance, who.Instance)
	a.str(attrProfile, who.Profile)
	a.str(attrIssuer, who.Issuer)
	a.str(attrDoor, r.Door())
	if in := r.Intent; in != nil {
		a.what(in.Door, in.Action, in.Resource)
		a.str(attrToolPin, in.ToolPin)
		if in.Credential != nil {
			a.str(attrCredential, in.Credential.Name)
		}
	} else {
		ev := r.Event
		a.what(ev.Door, ev.Action, ev.Resource)
		a.str(attrToolPin, ev.ToolPin)
		a.str(attrSource, ev.Source)
		if n := ev.Count(); n > 1 {
			a.num(attrCount, int64(n))
		}
		if ev.Change != nil {
			a.str(attrChangeBy, ev.Change.By)
			a.str(attrChangeReason, ev.Change.Reason)
		}
		if ev.Kind == audit.KindDenial && d != nil {
			a.str(errorType, d.Reason)
		}
	}
	if d == nil {
		return
	}
	a.str(attrDecision, d.ID)
	a.str(attrEffect, string(d.Effect))
	a.str(attrReason, d.Reason)
	a.list(attrPolicies, d.PolicyIDs())
	a.str(attrPolicyHash, d.PolicyHash)
	if d.Approval != nil {
		a.str(attrApprovedBy, d.Approval.By)
	}
}

// what adds an action and its resource, in the words of the conventions too.
func (a *attributes) what(door, action, resource string) {
	a.str(attrAction, action)
	a.str(attrResource, resource)
	kind, name := entity.Split(resource)
	switch door {
	case audit.DoorTool:
		if action == "" || action == audit.ActionRequest {
			return
		}
		a.str(mcpMethod, method(action))
		switch kind {
		case "Tool":
			a.str(operationName, opTool)
			a.str(toolName, name)
		case "Prompt":
			a.str(promptName, name)
		case "Resource":
			a.str(mcpResourceURI, name)
		}
	case audit.DoorModel:
		a.str(operationName, operations[action])
		if kind == "Model" {
			p, model := provider(name)
			a.str(providerName, p)
			a.str(requestModel, model)
		}
	}
}

// outcome adds how a call ended.
func (a *attributes) outcome(out *audit.Outcome) {
	a.str(attrStatus, string(out.Status))
	switch {
	case out.ErrorCode != "":
		a.str(errorType, out.ErrorCode)
	case out.Status == audit.StatusFailed:
		a.str(errorType, toolError)
	case out.Status != audit.StatusOK:
		a.str(errorType, string(out.Status))
	}
	a.num(attrBytes, out.Bytes)
	a.num(attrVersion, int64(out.CredentialVersion))
	a.list(attrChecks, out.Checks)
	a.list(attrLabels, out.Labels)
	if u := out.Usage; u != nil {
		a.str(responseModel, u.Model)
		a.num(inputTokens, u.Input+u.CacheRead+u.CacheWrite) // the conventions count all of them
		a.num(outputTokens, u.Output)
		a.num(cacheReadTokens, u.CacheRead)
		a.num(cacheNewTokens, u.CacheWrite)
		a.num(reasoningTokens, u.Reasoning)
		a.num(attrCost, u.Cost)
		a.num(attrCharged, cmp.Or(u.Charged, u.Cost))
	}
}

// method is the MCP method of an action at the tool door.
func method(action string) string { return cmp.Or(methods[action], methodCall) }

// provider splits the name of a model such as openai/gpt-5.
func provider(name string) (provider, model string) {
	if p, m, ok := strings.Cut(name, "/"); ok {
		return p, m
	}
	return "", name
}
