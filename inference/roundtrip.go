package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// RoundTripper returns the router in the form that HTTP clients take, for agents
// that live in the host's own process: what they ask goes through the same door,
// as actor, without a connection in between.
//
//	client := &http.Client{Transport: router.RoundTripper(actor)}
//
// The path of a request says what is asked, as with [Router.ServeHTTP]. Its
// scheme and host do not count, so that an SDK can keep the base URL that it
// has. Keys that it sends stay here. A request is refused with an error if its
// context carries another actor, or actor is zero.
//
// Answers stream. The call ends with the context of its request, or when the
// body of the answer is closed, which has to be done as with any transport. A
// stream that the door cuts off ends with [io.ErrUnexpectedEOF].
func (r *Router) RoundTripper(actor audit.Actor) http.RoundTripper {
	return &inProcess{r, actor}
}

type inProcess struct {
	router *Router
	actor  audit.Actor
}

var errCallBroken = errors.New("inference: the call broke off in the host")

// RoundTrip implements http.RoundTripper.
func (t *inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.check(req); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancel(audit.WithActor(req.Context(), t.actor))
	in := req.Clone(ctx)
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, to := io.Pipe()
	w := &pipeWriter{ctx: ctx, to: to, header: http.Header{}, started: make(chan struct{})}
	go func() {
		defer cancel()
		t.serve(w, in)
	}()
	select {
	case <-w.started:
	case <-ctx.Done():
		select {
		case <-w.started: // the call is over already, and has said how
		default:
			_ = in.Body.Close() // or it could be read for ever
			_ = body.CloseWithError(ctx.Err())
			return nil, ctx.Err()
		}
	}
	if w.broken != nil {
		return nil, w.broken
	}
	resp := &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: -1, Request: req, Body: &pipeBody{body, cancel},
	}
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	}
	return resp, nil
}

func (t *inProcess) check(req *http.Request) error {
	if t.actor.IsZero() {
		return audit.ErrNoActor
	}
	if a := audit.ActorFrom(req.Context()); !a.IsZero() && a != t.actor {
		return audit.ErrActorConflict
	}
	return nil
}

// serve runs the handler and turns its panics into the end of the answer, as a
// server does.
func (t *inProcess) serve(w *pipeWriter, req *http.Request) {
	defer func() {
		p := recover()
		_ = req.Body.Close()
		switch p {
		case nil:
			w.end(nil)
		case http.ErrAbortHandler:
			w.end(w.cut())
		default:
			t.router.opts.Logger.Error("inference: a call panicked", slog.Any("panic", p))
			w.end(errCallBroken)
		}
	}()
	t.router.ServeHTTP(w, req)
}

// A pipeBody is the body of an answer. Closing it ends the call.
type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// A pipeWriter is the [http.ResponseWriter] of a call in the same process.
type pipeWriter struct {
	ctx     context.Context // of the call
	to      *io.PipeWriter
	header  http.Header
	once    sync.Once
	started chan struct{}
	// Once started is closed:
	status int
	sent   http.Header
	broken error // there is no answer

	mu       sync.Mutex
	deadline *time.Timer
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.to.Write(p)
}

// FlushError implements what [http.ResponseController] asks for. Nothing is held
// back here.
func (w *pipeWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return nil
}

// SetWriteDeadline implements what [http.ResponseController] asks for. It is
// safe for concurrent use, and a write that waits is ended too.
func (w *pipeWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deadline != nil {
		w.deadline.Stop()
	}
	w.deadline = time.AfterFunc(time.Until(t), func() { _ = w.to.CloseWithError(w.cut()) })
	return nil
}

// cut is how an answer ends that is not whole: with the error of its context when
// that has ended, as any transport has it, so that SDKs can tell.
func (w *pipeWriter) cut() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// end ends the answer with err, or well.
func (w *pipeWriter) end(err error) {
	w.once.Do(func() {
		w.status, w.sent, w.broken = http.StatusOK, w.header, err
		close(w.started)
	})
	w.mu.Lock()
	if w.deadline != nil {
		w.deadline.Stop()
	}
	w.mu.Unlock()
	_ = w.to.CloseWithError(err)
}
