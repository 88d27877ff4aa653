package audit

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// The JSON of what every allowed call puts on record is written by hand: it is
// that of encoding/json, byte for byte. What is rare in it, encoding/json writes.

// A jsonWriter appends members to objects. Its error is the first.
type jsonWriter struct {
	b   []byte
	err error
}

// open begins an object that is a value, or the member name of the one that is
// open.
func (w *jsonWriter) open(name string) {
	w.name(name)
	w.b = append(w.b, '{')
}

func (w *jsonWriter) close() { w.b = append(w.b, '}') }

// name begins a member, or an element if the name is empty.
func (w *jsonWriter) name(name string) {
	if n := len(w.b); n > 0 && w.b[n-1] != '{' && w.b[n-1] != '[' {
		w.b = append(w.b, ',')
	}
	if name != "" {
		w.b = append(append(append(w.b, '"'), name...), `":`...)
	}
}

// text writes a string, always.
func (w *jsonWriter) text(name, s string) {
	w.name(name)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			w.any("", s)
			return
		}
	}
	w.b = append(append(append(w.b, '"'), s...), '"')
}

// some writes a string unless it is empty.
func (w *jsonWriter) some(name, s string) {
	if s != "" {
		w.text(name, s)
	}
}

func (w *jsonWriter) int(name string, n int64) {
	w.name(name)
	w.b = strconv.AppendInt(w.b, n, 10)
}

func (w *jsonWriter) uint(name string, n uint64) {
	w.name(name)
	w.b = strconv.AppendUint(w.b, n, 10)
}

func (w *jsonWriter) bytes(name string, p []byte) {
	w.name(name)
	w.b = append(w.b, '"')
	w.b = base64.StdEncoding.AppendEncode(w.b, p)
	w.b = append(w.b, '"')
}

// any writes what encoding/json makes of v, behind a name or, if that is empty,
// where a value belongs.
func (w *jsonWriter) any(name string, v any) {
	if name != "" {
		w.name(name)
	}
	enc, err := json.Marshal(v)
	if w.err == nil {
		w.err = err
	}
	w.b = append(w.b, enc...)
}

// list writes v, which has n elements, unless that is 0.
func (w *jsonWriter) list(name string, n int, v any) {
	if n > 0 {
		w.any(name, v)
	}
}

func (w *jsonWriter) body(b *body) {
	w.open("")
	if b.Intent != nil {
		w.intent(b.Intent)
	}
	if b.Call != 0 {
		w.uint("call", b.Call)
	}
	if b.Outcome != nil {
		w.outcome(b.Outcome)
	}
	if b.Event != nil {
		w.any("event", b.Event)
	}
	w.commitment("args", b.Args)
	w.commitment("result", b.Result)
	w.close()
}

func (w *jsonWriter) intent(in *Intent) {
	w.open("intent")
	w.text("door", in.Door)
	w.text("action", in.Action)
	w.text("resource", in.Resource)
	w.actor(&in.Actor)
	w.decision(&in.Decision)
	w.some("class", string(in.Class))
	w.some("tool_pin", in.ToolPin)
	if c := in.Credential; c != nil {
		w.open("credential")
		w.text("name", c.Name)
		w.decision(&c.Decision)
		w.close()
	}
	w.some("trace", in.Trace)
	w.close()
}

func (w *jsonWriter) actor(a *Actor) {
	w.open("actor")
	w.text("agent", a.Agent)
	w.some("instance", a.Instance)
	w.some("issuer", a.Issuer)
	w.some("session", a.Session)
	w.some("user", a.User)
	w.some("profile", a.Profile)
	w.close()
}

func (w *jsonWriter) decision(d *Decision) {
	w.open("decision")
	w.text("id", d.ID)
	w.text("effect", string(d.Effect))
	if len(d.Policies) > 0 {
		w.name("policies")
		w.b = append(w.b, '[')
		for i := range d.Policies {
			p := &d.Policies[i]
			w.open("")
			w.text("id", p.ID)
			w.some("position", p.Position)
			w.some("severity", p.Severity)
			w.some("reason", p.Reason)
			w.some("owner", p.Owner)
			w.close()
		}
		w.b = append(w.b, ']')
	}
	w.list("errors", len(d.Errors), d.Errors)
	w.some("policy_hash", d.PolicyHash)
	w.some("reason", d.Reason)
	w.list("nearest", len(d.Nearest), d.Nearest)
	w.list("obligations", len(d.Obligations), d.Obligations)
	if d.Approval != nil {
		w.any("approval", d.Approval)
	}
	w.list("would", len(d.Would), d.Would)
	if d.Facts != nil {
		w.any("facts", d.Facts)
	}
	w.close()
}

func (w *jsonWriter) outcome(out *Outcome) {
	w.open("outcome")
	w.text("status", string(out.Status))
	w.some("error_code", out.ErrorCode)
	w.int("bytes", out.Bytes)
	if out.Usage != nil {
		w.any("usage", out.Usage)
	}
	if out.Process != nil {
		w.any("process", out.Process)
	}
	w.int("latency_ns", int64(out.Latency))
	if out.CredentialVersion != 0 {
		w.uint("credential_version", out.CredentialVersion)
	}
	w.list("checks", len(out.Checks), out.Checks)
	w.list("labels", len(out.Labels), out.Labels)
	w.close()
}

func (w *jsonWriter) commitment(name string, c *Commitment) {
	if c == nil {
		return
	}
	if c.Salt == nil || c.MAC == nil {
		w.any(name, c)
		return
	}
	w.open(name)
	w.int("len", int64(c.Len))
	w.bytes("salt", c.Salt)
	w.bytes("mac", c.MAC)
	if c.Kept {
		w.any("kept", true)
	}
	if len(c.Fields) > 0 {
		w.bytes("fields", c.Fields)
	}
	w.close()
}
