package export

import (
	"cmp"
	"encoding/csv"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// columns are those of a CSV export.
var columns = []string{
	"record", "outcome_record", "time", "kind", "status", "count", "door", "action", "resource",
	"agent", "instance", "session", "user", "profile",
	"effect", "reason", "policies", "policy_hash", "decision", "approved_by",
	"credential", "credential_version", "error_code", "bytes", "latency_ms", "checks",
	"model", "input_tokens", "output_tokens", "changed_by", "change_reason", "source", "detail", "tool_pin", "trace",
	"cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "usage_final", "cost_micro_usd", "charged_micro_usd",
}

func writeCSV(w io.Writer, records iter.Seq2[audit.Record, error], _ Options) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true // RFC 4180
	if err := out.Write(columns); err != nil {
		return err
	}
	for a, err := range acts(records) {
		if err != nil {
			out.Flush()
			return err
		}
		if err := out.Write(a.row()); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func (a act) row() []string {
	cells := map[string]string{
		"record": strconv.FormatUint(a.Seq, 10),
		"time":   a.Time.UTC().Format(time.RFC3339Nano),
		"status": a.status(),
		"door":   a.Door(),
	}
	who := a.Actor()
	cells["agent"], cells["instance"], cells["session"], cells["user"], cells["profile"] = who.Agent, who.Instance, who.Session, who.User, who.Profile
	if d := a.Decision(); d != nil {
		cells["effect"], cells["reason"], cells["policies"] = string(d.Effect), d.Reason, strings.Join(d.PolicyIDs(), " ")
		cells["policy_hash"], cells["decision"] = d.PolicyHash, d.ID
		if d.Approval != nil {
			cells["approved_by"] = d.Approval.By
		}
	}
	if in := a.Intent; in != nil {
		cells["kind"], cells["action"], cells["resource"], cells["tool_pin"], cells["trace"] = "call", in.Action, in.Resource, in.ToolPin, in.Trace
		if in.Credential != nil {
			cells["credential"] = in.Credential.Name
		}
	}
	if ev := a.Event; ev != nil {
		cells["kind"], cells["action"], cells["resource"], cells["tool_pin"], cells["trace"] = string(ev.Kind), ev.Action, ev.Resource, ev.ToolPin, ev.Trace
		cells["source"], cells["count"] = ev.Source, strconv.FormatUint(ev.Count(), 10)
		if ev.Change != nil {
			cells["changed_by"], cells["change_reason"] = ev.Change.By, ev.Change.Reason
		}
		var facts []string
		for _, k := range slices.Sorted(maps.Keys(ev.Detail)) {
			facts = append(facts, k+"="+ev.Detail[k])
		}
		cells["detail"] = strings.Join(facts, " ")
	}
	if a.outcome != nil {
		o := a.outcome.Outcome
		cells["outcome_record"] = strconv.FormatUint(a.outcome.Seq, 10)
		cells["error_code"], cells["checks"] = o.ErrorCode, strings.Join(o.Checks, " ")
		cells["bytes"] = strconv.FormatInt(o.Bytes, 10)
		cells["latency_ms"] = strconv.FormatFloat(float64(o.Latency)/float64(time.Millisecond), 'f', 3, 64)
		if o.CredentialVersion != 0 {
			cells["credential_version"] = strconv.FormatUint(o.CredentialVersion, 10)
		}
		if u := o.Usage; u != nil {
			cells["model"], cells["input_tokens"], cells["output_tokens"] = u.Model, strconv.FormatInt(u.Input, 10), strconv.FormatInt(u.Output, 10)
			for column, n := range map[string]int64{
				"cache_read_tokens": u.CacheRead, "cache_write_tokens": u.CacheWrite, "reasoning_tokens": u.Reasoning,
				"cost_micro_usd": u.Cost, "charged_micro_usd": cmp.Or(u.Charged, u.Cost),
			} {
				cells[column] = strconv.FormatInt(n, 10)
			}
			cells["usage_final"] = strconv.FormatBool(u.Final)
		}
	}
	row := make([]string, len(columns))
	for i, name := range columns {
		row[i] = cell(cells[name])
	}
	return row
}

// cell returns text that a spreadsheet shows as it is: with an apostrophe before
// what would begin a formula, and without hidden characters.
func cell(s string) string {
	s = visible.Text(strings.ToValidUTF8(s, "\ufffd"))
	rest := strings.TrimLeftFunc(s, unicode.IsSpace)
	if strings.HasPrefix(rest, "'") { // an apostrophe of its own stays one
		return "'" + s
	}
	for _, c := range "=+-@＝＋－＠" {
		if strings.HasPrefix(rest, string(c)) {
			return "'" + s
		}
	}
	return s
}
