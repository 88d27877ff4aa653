package report_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/report"
)

// A viewer reads server-sent events.
type viewer struct {
	t    *testing.T
	resp *http.Response
	in   *bufio.Scanner
	stop context.CancelFunc
}

func view(t *testing.T, url, last string) *viewer {
	t.Helper()
	c, stop := context.WithTimeout(ctx, 30*time.Second)
	t.Cleanup(stop)
	req, err := http.NewRequestWithContext(c, "GET", url+"/audit/events", nil)
	require.NoError(t, err)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 4<<20)
	return &viewer{t, resp, in, stop}
}

// next returns the fields of the next event, "" and nil at the end.
func (v *viewer) next() (name string, data map[string]any) {
	for v.in.Scan() {
		if n, ok := strings.CutPrefix(v.in.Text(), "event: "); ok {
			name = n
		}
		if d, ok := strings.CutPrefix(v.in.Text(), "data: "); ok {
			if name == "" {
				require.NoError(v.t, json.Unmarshal([]byte(d), &data))
				return "record", data
			}
			return name, map[string]any{"data": d}
		}
	}
	return "", nil
}

func (v *viewer) record() map[string]any {
	v.t.Helper()
	name, data := v.next()
	require.Equal(v.t, "record", name)
	return data
}

func serve(t *testing.T, log report.Source, opts *report.LiveOptions) string {
	mux := http.NewServeMux()
	mux.Handle("/audit/", http.StripPrefix("/audit", report.Handler(log, opts)))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func deny(t *testing.T, log audit.Recorder, action string) {
	t.Helper()
	d := audit.Refusal("d", audit.GuardUnknown)
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: "tool", Action: action, Actor: audit.Actor{Agent: "x"}, Decision: &d}))
}

func TestLiveStream(t *testing.T) {
	log := audittest.NewLog(t)
	for i := range 5 {
		deny(t, log, fmt.Sprint("act", i+1))
	}
	url := serve(t, log, &report.LiveOptions{Backlog: 2})
	v := view(t, url, "")
	assert.Equal(t, "text/event-stream", v.resp.Header.Get("Content-Type"))
	assert.EqualValues(t, 4, v.record()["seq"], "the last two that are stored")
	assert.EqualValues(t, 5, v.record()["seq"])
	call(t, log, audit.Intent{Door: "tool", Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: allowed("readers")}, &audit.Outcome{Status: audit.StatusOK})
	r := v.record()
	assert.Equal(t, "allowed", r["what"])
	assert.Equal(t, "readers", r["why"])
	r = v.record()
	assert.Equal(t, "ok", r["what"])
	assert.EqualValues(t, 6, r["call"])
	v.stop()

	// Away for a while, and back.
	deny(t, log, "act8\x1b[2J\u202e\r\ndata: forged")
	v = view(t, url, "6")
	assert.EqualValues(t, 7, v.record()["seq"])
	r = v.record()
	assert.Equal(t, `act8\u001b[2J\u202e\u000d\u000adata: forged `, r["action"])
	assert.Equal(t, "denied", r["what"])
	assert.Equal(t, "refused: nobody configured it (unknown)", r["why"])

	require.NoError(t, log.Close())
	name, data := v.next()
	assert.Equal(t, "end", name)
	assert.Equal(t, "closed", data["data"])
	name, _ = v.next()
	assert.Empty(t, name, "the stream ends with the log")

	for last, first := range map[string]uint64{"99": 7, "x": 7, "-1": 7, "0": 1, "8": 0} {
		v := view(t, url, last)
		name, data := v.next()
		if first == 0 {
			assert.Equal(t, "end", name)
			continue
		}
		assert.EqualValues(t, first, data["seq"], last)
	}
}

func TestLiveStreamsAreBounded(t *testing.T) {
	log := audittest.NewLog(t)
	deny(t, log, "act")
	url := serve(t, log, &report.LiveOptions{MaxStreams: 2})
	a, b := view(t, url, ""), view(t, url, "")
	a.record()
	b.record()
	c := view(t, url, "")
	assert.Equal(t, http.StatusServiceUnavailable, c.resp.StatusCode)
	assert.NotEmpty(t, c.resp.Header.Get("Retry-After"))
	a.stop()
	b.stop()
	require.Eventually(t, func() bool { // their places are free again
		v := view(t, url, "")
		defer v.stop()
		return v.resp.StatusCode == http.StatusOK
	}, time.Minute, 20*time.Millisecond)
}

func TestLiveSaysThatTheLogFailed(t *testing.T) {
	for _, src := range []report.Source{brokenSource{}, nil} {
		v := view(t, serve(t, src, nil), "")
		name, data := v.next()
		assert.Equal(t, "end", name)
		assert.Equal(t, "failed", data["data"])
		resp, err := http.Get(serve(t, src, nil) + "/audit/report")
		require.NoError(t, err)
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		assert.Equal(t, http.StatusInternalServerError, resp.StatusCode)
		assert.NotContains(t, string(body), "/secret/path")
	}
}

type brokenSource struct{ *audit.Log }

func (brokenSource) Follow(context.Context, uint64) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) { yield(audit.Record{}, fmt.Errorf("open /secret/path")) }
}

func (brokenSource) Query(context.Context, audit.Filter) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) { yield(audit.Record{}, fmt.Errorf("open /secret/path")) }
}

func TestLivePages(t *testing.T) {
	log := audittest.NewLog(t)
	call(t, log, audit.Intent{Door: "tool", Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: allowed("readers")}, &audit.Outcome{Status: audit.StatusOK})
	deny(t, log, "c__d")
	url := serve(t, log, &report.LiveOptions{Title: "<Host 7>"})
	get := func(method, path string) (int, string, http.Header) {
		req, err := http.NewRequest(method, url+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"), path)
		assert.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'", path)
		assert.Contains(t, resp.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'", path)
		return resp.StatusCode, string(body), resp.Header
	}
	for _, path := range []string{"/audit/", "/audit/report"} {
		code, body, head := get("GET", path)
		assert.Equal(t, http.StatusOK, code, path)
		for _, tag := range []string{"style", "script"} {
			_, rest, _ := strings.Cut(body, "<"+tag+">")
			text, _, _ := strings.Cut(rest, "</"+tag+">")
			sum := sha256.Sum256([]byte(text))
			assert.Contains(t, head.Get("Content-Security-Policy"), tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'", path)
		}
		assert.Contains(t, body, "&lt;Host 7&gt;")
	}
	_, body, head := get("GET", "/audit/")
	assert.Contains(t, head.Get("Content-Security-Policy"), "connect-src 'self'")
	assert.Contains(t, body, "was not verified")
	_, body, _ = get("GET", "/audit/report")
	assert.Contains(t, body, "1 done, 1 blocked")
	assert.Contains(t, body, "was not verified")
	_, body, _ = get("GET", "/audit/report?agent=nobody")
	assert.Contains(t, body, "0 done, 0 blocked")
	_, body, _ = get("GET", "/audit/report?to=2020-01-01")
	assert.Contains(t, body, "before 2020-01-01 00:00:00.000 UTC: 0 records")
	for path, want := range map[string]int{
		"/audit/report?from=yesterday": http.StatusBadRequest, "/audit/nothing": http.StatusNotFound, "/audit/events/x": http.StatusNotFound,
	} {
		code, _, _ := get("GET", path)
		assert.Equal(t, want, code, path)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		for _, path := range []string{"/audit/", "/audit/events", "/audit/report"} {
			code, _, _ := get(method, path)
			assert.Equal(t, http.StatusMethodNotAllowed, code, "%s %s", method, path)
		}
	}
}

// One report at a time.
func TestLiveReportsAreBounded(t *testing.T) {
	src := slowSource{started: make(chan struct{}), goOn: make(chan struct{})}
	url := serve(t, src, nil)
	release := sync.OnceFunc(func() { close(src.goOn) })
	t.Cleanup(release) // before the server closes, which waits for its requests
	codes := make(chan int)
	go func() {
		resp, err := http.Get(url + "/audit/report")
		if err == nil {
			_ = resp.Body.Close()
			codes <- resp.StatusCode
		}
		close(codes)
	}()
	<-src.started
	resp, err := http.Get(url + "/audit/report")
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	release()
	assert.Equal(t, http.StatusOK, <-codes)
}

type slowSource struct {
	*audit.Log
	started, goOn chan struct{}
}

func (s slowSource) Query(context.Context, audit.Filter) iter.Seq2[audit.Record, error] {
	return func(func(audit.Record, error) bool) {
		close(s.started)
		<-s.goOn
	}
}
