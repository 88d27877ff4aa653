package export

import (
	"cmp"
	"io"
	"iter"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/entity"
)

// Versions of the OCSF schema that the OCSF format can be of. All acts and
// events are of the class API Activity (6003): api is the action, actor the
// agent and the user it acts for or, for acts of people, who did it. What has no
// place in the schema is in unmapped.
//
// The fingerprints in attestation_list are the RFC 6962 leaf hashes of the
// records that the event was made from, whose numbers are in uid, over the bytes
// that the log stores: together with a proof from the log they show that it has
// these very records.
const (
	// OCSF18 is the stable version 1.8.0. It has neither ai_agent nor
	// attestation_list: these are in unmapped, in the form that they have in
	// 1.9.0.
	OCSF18 = "1.8.0"
	// OCSF19 is the development version 1.9.0-dev, with ai_agent of the profile
	// ai_operation and attestation_list of record_integrity. It may still change.
	OCSF19 = "1.9.0-dev"
)

func writeOCSF(w io.Writer, records iter.Seq2[audit.Record, error], o Options) error {
	for a, err := range acts(records) {
		if err != nil {
			return err
		}
		ev, err := a.ocsf(o)
		if err != nil {
			return err
		}
		if err := writeLine(w, ev); err != nil {
			return err
		}
	}
	return nil
}

func (a act) ocsf(o Options) (*ocsfEvent, error) {
	action, resource, trace, pin := "", "", "", ""
	if a.Intent != nil {
		action, resource, trace, pin = a.Intent.Action, a.Intent.Resource, a.Intent.Trace, a.Intent.ToolPin
	} else {
		action, resource, trace, pin = a.Event.Action, a.Event.Resource, a.Event.Trace, a.Event.ToolPin
	}
	e := &ocsfEvent{
		ActivityID: activityOther, ActivityName: action, CategoryUID: ocsfCategory, CategoryName: "Application Activity",
		ClassUID: ocsfClass, ClassName: "API Activity", SeverityID: 1, Time: a.Time.UnixMilli(),
		API: ocsfAPI{Operation: action}, ActionID: actionNone, Disposition: actionNone, StatusID: statusUnknown,
		Metadata: ocsfMetadata{
			Version: o.OCSFVersion, Product: ocsfProduct{"Twinward", "Twinward"}, LogName: o.Origin, Sequence: a.Seq,
			UID: o.Origin + "#" + strconv.FormatUint(a.Seq, 10), Profiles: []string{"ai_operation", "security_control", "trace"},
		},
		Unmapped: map[string]any{"door": a.Door()},
	}
	if a.reads(action) {
		e.ActivityID, e.ActivityName = activityRead, "Read"
	}
	e.TypeUID = ocsfClass*100 + e.ActivityID
	kind, name := entity.Split(resource)
	if name != "" {
		e.Resources = []ocsfNamed{{Name: name, Type: kind}}
	}
	if server, _, ok := strings.Cut(action, "__"); ok && a.Door() == audit.DoorTool {
		e.API.Service = &ocsfNamed{Name: server}
	}
	if action == "connect" {
		e.DstEndpoint = &ocsfEndpoint{Hostname: name}
	}
	e.who(a)
	e.why(a)
	e.end(a)
	if t, ok := audit.ParseTrace(trace); ok {
		e.Trace = &ocsfUID{t.ID()}
	}
	if pin != "" {
		e.Unmapped["tool_pin"] = pin
	}
	what := action
	if resource != "" {
		what += " on " + resource
	}
	e.Message = strings.TrimSpace(cmp.Or(a.status(), a.kind()) + ": " + what)
	attest, err := a.attest(o.Origin)
	if err != nil {
		return nil, err
	}
	agent := (*ocsfAgent)(nil)
	if who := a.Actor(); who.Agent != "" {
		agent = &ocsfAgent{who.Agent, who.Instance}
	}
	if o.OCSFVersion == OCSF19 {
		e.AIAgent, e.Attestations = agent, attest
		e.Metadata.Profiles = append(e.Metadata.Profiles, "record_integrity")
		return e, nil
	}
	e.Unmapped["attestation_list"] = attest
	if agent != nil {
		e.Unmapped["ai_agent"] = agent
	}
	return e, nil
}

// reads reports whether an act only reads, as its class or its action says.
func (a act) reads(action string) bool {
	if a.Intent != nil && a.Intent.Class == audit.ClassRead || a.Event != nil && a.Event.Kind == audit.KindList {
		return true
	}
	switch action {
	case "read_resource", "get_prompt", "list_tools", "list_models", "count_tokens":
		return true
	}
	return false
}

func (a act) kind() string {
	if a.Event != nil {
		return string(a.Event.Kind)
	}
	return "call"
}

// who fills the actor: the agent, or for acts of people who did them, or the
// host.
func (e *ocsfEvent) who(a act) {
	who := a.Actor()
	var change *audit.Change
	if a.Event != nil {
		change = a.Event.Change
		e.Unmapped["kind"] = a.Event.Kind
		if len(a.Event.Detail) > 0 {
			e.Unmapped["detail"] = a.Event.Detail
		}
		if a.Event.Source != "" {
			e.Unmapped["source"] = a.Event.Source
		}
		if n := a.Event.Count(); n > 1 {
			e.Unmapped["count"] = n
		}
	}
	e.Actor.AppUID, e.Actor.AppName = who.Agent, who.Agent
	if who.User != "" {
		e.Actor.User = &ocsfUser{who.User, who.User}
	}
	if change != nil && change.By != "" {
		e.Actor.User = &ocsfUser{change.By, change.By}
		e.Unmapped["reason"] = change.Reason
	}
	if who.Session != "" || who.Issuer != "" {
		e.Actor.Session = &ocsfSession{who.Session, who.Issuer}
	}
	if who.Profile != "" {
		e.Unmapped["profile"] = who.Profile
	}
	if e.Actor.AppUID == "" && e.Actor.User == nil {
		e.Actor.AppName = "host" // nobody was named: the host itself, or one that could not be identified
	}
	e.SrcEndpoint = ocsfEndpoint{Name: cmp.Or(who.Session, who.Agent, "host"), InstanceUID: who.Instance}
}

// why fills the decision.
func (e *ocsfEvent) why(a act) {
	d := a.Decision()
	if d == nil {
		return
	}
	e.Metadata.Correlation = d.ID
	e.ActionID, e.Disposition = actionAllowed, dispositionAllowed
	if !d.Allowed() {
		e.ActionID, e.Disposition, e.StatusID, e.SeverityID = actionDenied, blocked, statusBad, 2
		e.Status, e.StatusDetail = "Failure", d.Reason
	}
	for _, p := range d.Policies {
		pol := ocsfPolicy{UID: p.ID, Name: p.ID, Desc: p.Position, Version: d.PolicyHash}
		e.Actor.Authorizations = append(e.Actor.Authorizations, ocsfAuthorization{string(d.Effect), pol})
		if !d.Allowed() {
			e.SeverityID = max(e.SeverityID, severity(p.Severity))
			if e.Policy == nil {
				e.Policy = &pol
			}
		}
	}
	if d.PolicyHash != "" {
		e.Unmapped["policy_hash"] = d.PolicyHash
	}
	if d.Approval != nil {
		e.Unmapped["approved_by"] = d.Approval.By
	}
}

// severity is the number of a policy's own severity, or 0.
func severity(s string) int {
	return map[string]int{"info": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}[s]
}

// end fills what the outcome says.
func (e *ocsfEvent) end(a act) {
	if a.Intent != nil && a.Intent.Credential != nil {
		e.Unmapped["credential"] = a.Intent.Credential.Name
	}
	if a.Event != nil && (a.Event.Kind == audit.KindLeak || a.Event.Kind == audit.KindCanary) {
		e.SeverityID = 4
	}
	if a.outcome == nil {
		if a.Intent != nil {
			e.Status, e.StatusDetail = "Unknown", "no outcome is on record"
		} else if a.Event.Change != nil {
			e.StatusID, e.Status = statusOK, "Success"
		}
		return
	}
	out := a.outcome.Outcome
	e.StatusID, e.Status, e.StatusCode = statusOK, "Success", out.ErrorCode
	if out.Status != audit.StatusOK {
		e.StatusID, e.Status, e.StatusDetail = statusBad, "Failure", string(out.Status)
		e.API.Response = &ocsfAnswer{Error: cmp.Or(out.ErrorCode, string(out.Status))}
	}
	e.Unmapped["outcome_record"], e.Unmapped["bytes"], e.Unmapped["latency_ns"] = a.outcome.Seq, out.Bytes, out.Latency
	if len(out.Checks) > 0 {
		e.Unmapped["checks"] = out.Checks
	}
	if len(out.Labels) > 0 {
		e.Unmapped["labels"] = out.Labels
	}
	if out.CredentialVersion != 0 {
		e.Unmapped["credential_version"] = out.CredentialVersion
	}
	if p := out.Process; p != nil {
		e.Unmapped["process"] = p
	}
	if u := out.Usage; u != nil {
		e.Unmapped["usage"] = u
		provider := "unknown"
		if _, name := entity.Split(a.Intent.Resource); strings.Contains(name, "/") {
			provider, _, _ = strings.Cut(name, "/")
		}
		e.AIModel = &ocsfModel{provider, cmp.Or(u.Model, "unknown")}
	}
}

// attest fingerprints the records that the event is made from.
func (a act) attest(origin string) ([]ocsfAttest, error) {
	var list []ocsfAttest
	for _, r := range []*audit.Record{&a.Record, a.outcome} {
		if r == nil {
			continue
		}
		line, err := r.Line()
		if err != nil {
			return nil, err
		}
		list = append(list, ocsfAttest{
			UID: strconv.FormatUint(r.Seq, 10), Chain: origin,
			Fingerprint: ocsfFingerprint{algorithmOther, "RFC 6962 leaf hash, SHA-256, base64", tlog.RecordHash(line).String()},
		})
	}
	return list, nil
}
