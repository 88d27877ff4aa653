// Package otlp sends the records of an audit log to an OpenTelemetry collector: as
// OTLP logs, and calls as spans too where one wants them.
//
// What arrives there is a copy for people who watch, not the evidence. Each log
// carries the record's own line as its body, which is what the log's tree was made
// of: with a proof from the log ([audit.Prove]) it can be shown that this very line
// is on record. The attributes besides are the same facts in OpenTelemetry's words.
//
//	exporter, err := otlp.New(&otlp.Options{Endpoint: "http://localhost:4318", Origin: origin})
//	log, err := audit.Open(dir, &audit.Options{
//		Sinks:   []audit.Feed{{Name: "otlp", Sink: audit.KeepPosition(exporter, file)}},
//		Anchors: []audit.Anchor{exporter.Anchor()},
//	})
//
// It speaks OTLP over HTTP in the JSON encoding, which each collector and most
// backends take, and writes it with encoding/json: some two hundred lines, where
// OpenTelemetry's own exporters would bring protocol buffers and gRPC into every
// program that keeps an audit log, and lose what they cannot send soon enough.
package otlp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// Options say where to send records.
type Options struct {
	// Endpoint is the collector's base URL, such as http://localhost:4318, to which
	// /v1/logs and /v1/traces are added. Required.
	Endpoint string
	// Origin is the log's name ([audit.Options.Origin]). Required.
	Origin string
	// Header is sent with each request, such as an API key.
	Header http.Header
	// Client sends the requests. Nil means one that follows no redirect and gives a
	// request 10 seconds.
	Client *http.Client
	// Resource are attributes of the host, such as "service.name", which is
	// "twinward" if it is not among them.
	Resource map[string]string
	// Spans sends each call whose intent and outcome are seen as a span too. Leave
	// it off where the doors trace their calls themselves: it would show them twice.
	Spans bool
	// Logger is told of records that a collector has rejected for good. Nil is told
	// nothing.
	Logger *slog.Logger
}

// An Exporter is an [audit.Sink]. It is for one log.
type Exporter struct {
	opts     Options
	origin   string
	logs     string // URLs
	traces   string
	resource resource
	client   *http.Client
	logger   *slog.Logger

	open map[uint64]audit.Record // intents, for spans
}

// maxOpen bounds the calls that spans are waited for. The oldest are forgotten.
const maxOpen = 4096

// New returns an exporter. It does not ask whether the collector is there.
func New(opts *Options) (*Exporter, error) {
	if opts == nil || opts.Origin == "" {
		return nil, errors.New("otlp: an exporter needs the Origin of the log")
	}
	u, err := url.Parse(opts.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("otlp: the endpoint %q is not the URL of a collector, such as http://localhost:4318", opts.Endpoint)
	}
	e := newExporter(*opts)
	e.logs, e.traces = u.JoinPath("v1/logs").String(), u.JoinPath("v1/traces").String()
	if e.client == nil {
		e.client = &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return e, nil
}

func newExporter(o Options) *Exporter {
	e := &Exporter{opts: o, origin: o.Origin, client: o.Client, logger: o.Logger, open: map[uint64]audit.Record{}}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	attrs := map[string]string{serviceName: "twinward", instanceID: o.Origin}
	maps.Copy(attrs, o.Resource)
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		e.resource.Attributes.str(key, attrs[key])
	}
	return e
}

// Send implements [audit.Sink]. A collector that answers with an error gets the
// same records again. What it says it has rejected is not sent again, as the
// protocol demands: the Logger is told, and the log has it.
func (e *Exporter) Send(ctx context.Context, records []audit.Record) error {
	logs, err := e.encode(records)
	if err != nil {
		return err
	}
	if err := e.post(ctx, e.logs, logs); err != nil {
		return err
	}
	if !e.opts.Spans {
		return nil
	}
	var spans []span
	var ended []uint64
	for _, r := range records {
		switch {
		case r.Intent != nil:
			e.open[r.Seq] = r
			delete(e.open, oldest(e.open))
		case r.Outcome != nil:
			if in, ok := e.open[r.Call]; ok {
				spans, ended = append(spans, e.span(in, r)), append(ended, r.Call)
			}
		}
	}
	if len(spans) > 0 {
		err = e.post(ctx, e.traces, tracesData{[]resourceSpans{{e.resource, []scopeSpans{{scope{scopeName}, spans}}}}})
	}
	if err == nil {
		for _, seq := range ended {
			delete(e.open, seq)
		}
	}
	return err
}

// oldest returns the call to forget, 0 if there is room.
func oldest(open map[uint64]audit.Record) uint64 {
	if len(open) <= maxOpen {
		return 0
	}
	return slices.Min(slices.Collect(maps.Keys(open)))
}

func (e *Exporter) encode(records []audit.Record) (logsData, error) {
	list := make([]logRecord, len(records))
	for i, r := range records {
		var err error
		if list[i], err = e.logRecord(r); err != nil {
			return logsData{}, fmt.Errorf("otlp: record %d: %w", r.Seq, err)
		}
	}
	return logsData{[]resourceLogs{{e.resource, []scopeLogs{{scope{scopeName}, list}}}}}, nil
}

// maxAnswer bounds what is read of a collector's answer, in bytes.
const maxAnswer = 64 << 10

// post sends one message, and returns nil if the collector took it.
func (e *Exporter) post(ctx context.Context, to string, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	maps.Copy(req.Header, e.opts.Header.Clone())
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("otlp: %s answered %s: %q", to, resp.Status, answer[:min(len(answer), 200)])
	}
	if err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	var a struct {
		PartialSuccess struct {
			Logs    json.RawMessage `json:"rejectedLogRecords"`
			Spans   json.RawMessage `json:"rejectedSpans"`
			Message string          `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &a) != nil {
		return nil // it took them, in whatever words
	}
	p := a.PartialSuccess
	if n := strings.Trim(cmp.Or(string(p.Logs), string(p.Spans)), `"`); n != "" && n != "0" || p.Message != "" {
		e.logger.Warn("otlp: the collector rejected records for good", "url", to, "rejected", n, "message", p.Message)
	}
	return nil
}

// An anchor sends checkpoints.
type anchor struct{ e *Exporter }

// Anchor returns an anchor that sends each checkpoint to the collector, as a log
// named twinward.audit.checkpoint whose body is the signed note. It is worth what
// the host cannot change there. Nobody reads it back on opening the log: give what
// it kept to [audit.Verify].
func (e *Exporter) Anchor() audit.Anchor { return anchor{e} }

// Publish implements [audit.Anchor].
func (a anchor) Publish(ctx context.Context, checkpoint []byte) error {
	lines := strings.SplitN(string(checkpoint), "\n", 4) // origin, size, root
	if len(lines) < 4 {
		return errors.New("otlp: not a checkpoint")
	}
	now := nanos(time.Now())
	r := logRecord{Time: now, Observed: now, Severity: info, SeverityText: info.String(), EventName: eventCheckpoint, Body: text(string(checkpoint))}
	r.Attributes.str(attrSize, lines[1])
	r.Attributes.str(attrRoot, lines[2])
	return a.e.post(ctx, a.e.logs, logsData{[]resourceLogs{{a.e.resource, []scopeLogs{{scope{scopeName}, []logRecord{r}}}}}})
}

// perLine is how many records are in a line that [Write] writes.
const perLine = 256

// Write writes records as OTLP logs to a file, one message a line, as collectors
// read and write such files. Of opts only Origin and Resource are used.
func Write(w io.Writer, records iter.Seq2[audit.Record, error], opts *Options) error {
	if opts == nil || opts.Origin == "" {
		return errors.New("otlp: writing records needs the Origin of the log")
	}
	e := newExporter(*opts)
	var batch []audit.Record
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		logs, err := e.encode(batch)
		if err != nil {
			return err
		}
		batch = batch[:0]
		line, err := json.Marshal(logs)
		if err == nil { // whoever looks at the file is not to be driven by what agents wrote
			_, err = w.Write(append(visible.JSON(line), '\n'))
		}
		if err != nil {
			return fmt.Errorf("otlp: %w", err)
		}
		return nil
	}
	for r, err := range records {
		if err != nil {
			return err
		}
		if batch = append(batch, r); len(batch) == perLine {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
