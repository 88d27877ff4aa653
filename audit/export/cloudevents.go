package export

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/url"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A cloudEvent is a record in the envelope of CloudEvents 1.0. Its type is
// "dev.twinward.audit." and "intent", "outcome" or the kind of the event.
type cloudEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Time            time.Time       `json:"time"`
	Subject         string          `json:"subject,omitempty"`
	DataContentType string          `json:"datacontenttype"`
	Sequence        string          `json:"sequence"`
	TraceParent     string          `json:"traceparent,omitempty"`
	Data            json.RawMessage `json:"data"`
}

func writeCloudEvents(w io.Writer, records iter.Seq2[audit.Record, error], o Options) error {
	source := (&url.URL{Path: o.Origin}).String()
	for r, err := range records {
		if err != nil {
			return err
		}
		line, err := r.Line()
		if err != nil {
			return err
		}
		ce := cloudEvent{
			SpecVersion: "1.0", ID: strconv.FormatUint(r.Seq, 10), Source: source, Time: r.Time.UTC(),
			Type: "dev.twinward.audit.outcome", DataContentType: "application/json", Data: line,
			Subject: r.Actor().Agent,
		}
		// Fixed width, so that the sequence extension sorts as text.
		ce.Sequence = fmt.Sprintf("%020d", r.Seq)
		trace := ""
		switch {
		case r.Intent != nil:
			ce.Type, trace = "dev.twinward.audit.intent", r.Intent.Trace
		case r.Event != nil:
			ce.Type, trace = "dev.twinward.audit."+string(r.Event.Kind), r.Event.Trace
		}
		if t, ok := audit.ParseTrace(trace); ok { // the extension has no other
			ce.TraceParent = string(t)
		}
		if err := writeLine(w, ce); err != nil {
			return err
		}
	}
	return nil
}
