package report

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"iter"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Source is a log that is being written to: [audit.Log] is one.
type Source interface {
	// Query yields the records on disk that the filter selects.
	Query(ctx context.Context, filter audit.Filter) iter.Seq2[audit.Record, error]
	// Follow yields the records from number seq on, also those to come.
	Follow(ctx context.Context, seq uint64) iter.Seq2[audit.Record, error]
	// Size is the number of records.
	Size() uint64
}

// LiveOptions configure a [Handler]. The zero value and nil are safe.
type LiveOptions struct {
	// Title is the headline. Empty means "Audit log".
	Title string
	// Phrases name operations in reports, as in [Options].
	Phrases map[string]Phrase
	// MaxRows limits the tables of reports, as in [Options].
	MaxRows int
	// MaxStreams is how many viewers are kept up to date at once; more are told
	// to come back. 0 means 16.
	MaxStreams int
	// Backlog is how many past records a viewer begins with. 0 means 100.
	Backlog int
}

const (
	// keepAlive is how often an idle stream says that it is alive, so that ends of
	// connections are noticed.
	keepAlive = 15 * time.Second
	// writeWithin is how long a viewer may take to receive what is sent.
	writeWithin = 15 * time.Second
	// mostAtOnce is how far back a viewer that was away may go on.
	mostAtOnce = 1000
)

// Handler serves a read-only view of a log to the browser of an operator:
//
//	GET /        a page that shows records as they become durable
//	GET /events  the records as server-sent events
//	GET /report  the report so far; ?agent=, ?from= and ?to= as in [Options],
//	             times in RFC 3339 or as dates
//
// Mount it under a path that ends with a slash:
//
//	mux.Handle("/audit/", http.StripPrefix("/audit", report.Handler(log, nil)))
//
// It has no authentication of its own: everybody who can reach it reads all of
// the log. Put the host's own login before it, and check the Host header if it
// listens on a loopback address. It never verifies the log, and its reports say
// so; that is for another machine.
//
// A viewer that is slow is waited for and holds nothing up but itself; after a
// while it is cut off, and its browser goes on from where it was. One report is
// made at a time.
func Handler(log Source, opts *LiveOptions) http.Handler {
	if log == nil {
		log = (*audit.Log)(nil) // answers with audit.ErrNoLog
	}
	h := &live{log: log}
	if opts != nil {
		h.o = *opts
	}
	if h.o.Title == "" {
		h.o.Title = "Audit log"
	}
	if h.o.MaxStreams <= 0 {
		h.o.MaxStreams = 16
	}
	if h.o.Backlog <= 0 {
		h.o.Backlog = 100
	}
	h.streams = make(chan struct{}, h.o.MaxStreams)
	h.reports = make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.page)
	mux.HandleFunc("GET /events", h.events)
	mux.HandleFunc("GET /report", h.report)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Cache-Control", "no-store")
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cross-Origin-Resource-Policy", "same-origin")
		head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		mux.ServeHTTP(w, r)
	})
}

type live struct {
	log              Source
	o                LiveOptions
	streams, reports chan struct{} // hold a token for each
}

var (
	//go:embed live.html.tmpl
	liveText string
	//go:embed live.js
	liveScript string
)

var liveTemplate = sync.OnceValues(func() (*template.Template, error) {
	return template.New("live").Funcs(template.FuncMap{"show": show}).Parse(liveText)
})

func (h *live) page(w http.ResponseWriter, _ *http.Request) {
	t, err := liveTemplate()
	if err != nil { // the text is part of the program
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", policyOf(pageStyle, liveScript, "connect-src 'self'; frame-ancestors 'none'; "))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = t.Execute(w, struct {
		Title  string
		Style  template.CSS
		Script template.JS
	}{h.o.Title, template.CSS(pageStyle), template.JS(liveScript)})
}

// busy answers that there is no room.
func busy(w http.ResponseWriter, what string) {
	w.Header().Set("Retry-After", "10")
	http.Error(w, what, http.StatusServiceUnavailable)
}

func (h *live) report(w http.ResponseWriter, r *http.Request) {
	o := Options{Title: h.o.Title, Agent: r.FormValue("agent"), Phrases: h.o.Phrases, MaxRows: h.o.MaxRows}
	for name, to := range map[string]*time.Time{"from": &o.From, "to": &o.To} {
		text := r.FormValue(name)
		if text == "" {
			continue
		}
		var err error
		if *to, err = time.Parse(time.RFC3339, text); err != nil {
			*to, err = time.Parse(time.DateOnly, text)
		}
		if err != nil {
			http.Error(w, name+" is neither a time nor a date", http.StatusBadRequest)
			return
		}
	}
	select {
	case h.reports <- struct{}{}:
		defer func() { <-h.reports }()
	default:
		busy(w, "another report is being made: try again in a moment")
		return
	}
	s, err := Summarise(h.log.Query(r.Context(), audit.Filter{}), &o)
	if err != nil {
		http.Error(w, "the log cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", policyOf(pageStyle, pageScript, "frame-ancestors 'none'; "))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = s.HTML(w) // the client is gone
}

func (h *live) events(w http.ResponseWriter, r *http.Request) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		busy(w, "too many viewers")
		return
	}
	from := h.from(r.Header.Get("Last-Event-ID"))
	out := stream{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // for proxies in between
	if out.send(": hello\n\n") != nil {
		return
	}

	// Follow waits for records, and this for a client that has gone as well.
	ctx, cancel := context.WithCancel(r.Context())
	records := make(chan audit.Record)
	var failure error
	go func() {
		defer close(records)
		for rec, err := range h.log.Follow(ctx, from) {
			if err != nil {
				failure = err
				return
			}
			select {
			case records <- rec:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range records { // until the goroutine has ended
		}
	}()
	beat := time.NewTicker(keepAlive)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			err = out.send(": alive\n\n")
		case rec, ok := <-records:
			if !ok {
				end := "closed"
				if failure != nil {
					end = "failed" // why is in the host's own log
				}
				_ = out.send("event: end\ndata: " + end + "\n\n")
				return
			}
			err = out.send(eventOf(rec))
		}
		if err != nil {
			return
		}
	}
}

// from is the record that a viewer begins with: the one after the last that it
// has, if that is not too long ago, or a few before the end.
func (h *live) from(last string) uint64 {
	size := h.log.Size()
	if n, err := strconv.ParseUint(last, 10, 63); err == nil && n <= size && size-n <= mostAtOnce {
		return n + 1
	}
	if back := uint64(h.o.Backlog); size > back {
		return size - back + 1
	}
	return 1
}

// A stream sends pieces of text, each within a time.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s stream) send(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeWithin)) // where the server can
	_, err := s.w.Write([]byte(text))
	if err == nil {
		err = s.control.Flush()
	}
	_ = s.control.SetWriteDeadline(time.Time{}) // HTTP/2 ends streams that idle past it
	return err
}

// eventOf is a record as a server-sent event. Its texts hold no line breaks and
// nothing hidden.
func eventOf(r audit.Record) string {
	e := struct {
		Seq    uint64 `json:"seq"`
		Time   string `json:"time"`
		Call   uint64 `json:"call,omitempty"`
		What   string `json:"what"`
		Agent  string `json:"agent,omitempty"`
		Action string `json:"action,omitempty"`
		Why    string `json:"why,omitempty"`
		Record string `json:"record"`
	}{Seq: r.Seq, Time: when(r.Time), Call: r.Call, Agent: show(r.Actor().Agent)}
	switch {
	case r.Intent != nil:
		e.What, e.Action, e.Why = "allowed", show(r.Intent.Action+" "+r.Intent.Resource), words(r.Intent.Decision.PolicyIDs())
	case r.Outcome != nil:
		e.What, e.Why = show(r.Outcome.Status), show(r.Outcome.ErrorCode)
	case r.Event != nil:
		e.What, e.Action = show(r.Event.Kind), show(r.Event.Action+" "+r.Event.Resource)
		if r.Event.Kind == audit.KindDenial {
			e.What = "denied"
		}
		if d := r.Event.Decision; d != nil {
			e.Why = show(Cause(*d))
		}
		if c := r.Event.Change; c != nil {
			e.Why = show(c.By + ": " + c.Reason)
		}
	}
	if line, err := r.Line(); err == nil {
		e.Record = show(string(line))
	}
	data, err := json.Marshal(e)
	if err != nil { // strings and numbers
		data = []byte("{}")
	}
	return fmt.Sprintf("id: %d\ndata: %s\n\n", r.Seq, data)
}
