package inference

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func inside(f *fleet, a audit.Actor) *http.Client {
	return &http.Client{Transport: f.router.RoundTripper(a)}
}

func post(t *testing.T, c *http.Client, ctx context.Context, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.openai.example/v1/chat/completions", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer sk-of-the-agent")
	req.Header.Set("Cookie", "a=b")
	return c.Do(req)
}

func TestRoundTripper(t *testing.T) {
	f := newFleet(t, nil)
	resp, err := post(t, inside(f, bot), t.Context(), askBig)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "200 OK", resp.Status)
	assert.EqualValues(t, len(body), resp.ContentLength)
	assert.JSONEq(t, `{"choices":[],"text":"I am a"}`, string(body))
	assert.Equal(t, []string{"aaaaaaaa-secret"}, f.keys)
	assert.Equal(t, bot, intent(t, f.log).Actor)

	resp, err = post(t, inside(f, audit.Actor{Agent: "stranger", Issuer: "x"}), t.Context(), askBig)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, 403, resp.StatusCode)

	resp, err = inside(f, bot).Head("https://wherever.example/")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, 200, resp.StatusCode)
}

func TestRoundTripperNeedsOneActor(t *testing.T) {
	f := newFleet(t, nil)
	_, err := post(t, inside(f, audit.Actor{}), t.Context(), askBig)
	require.ErrorIs(t, err, audit.ErrNoActor)
	_, err = post(t, inside(f, bot), audit.WithActor(t.Context(), audit.Actor{Agent: "other"}), askBig)
	require.ErrorIs(t, err, audit.ErrActorConflict)
	resp, err := post(t, inside(f, bot), audit.WithActor(t.Context(), bot), askBig)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, []string{"a"}, f.took())
}

// insideSlow is a router in a bubble, with one backend that is slow.
func insideSlow(t *testing.T, s slow, agents Agents) (*http.Client, *lastOutcome, *bool) {
	log, gone := &lastOutcome{}, new(bool)
	router, err := newRouter(Config{Backends: []Backend{{Name: "a", BaseURL: "http://a.example", Models: []string{"m"}}}}, permits{}, log,
		&Options{Agents: agents, Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			context.AfterFunc(r.Context(), func() { *gone = true })
			return s.roundTrip(r)
		})})
	require.NoError(t, err)
	return &http.Client{Transport: router.RoundTripper(bot)}, log, gone
}

const askStream = `{"model":"m","stream":true}`

// A bubble ends only when no goroutine is left in it.
func TestRoundTripperStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, log, _ := insideSlow(t, slow{parts: []slowPart{{time.Second, chunk}, {time.Second, chunk}, {time.Second, ending}}, ends: true}, nil)
		start := time.Now()
		resp, err := post(t, client, t.Context(), askStream)
		require.NoError(t, err)
		p := make([]byte, 4<<10)
		n, err := resp.Body.Read(p)
		require.NoError(t, err)
		assert.Equal(t, chunk, string(p[:n]))
		assert.Equal(t, time.Second, time.Since(start), "by the fake clock: it does not wait for the rest")
		rest, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, chunk+ending, string(rest))
		require.NoError(t, resp.Body.Close())
		synctest.Wait()
		assert.Equal(t, audit.StatusOK, log.out.Status)
	})
}

func TestRoundTripperEndsWithItsClient(t *testing.T) {
	endless := slow{parts: []slowPart{{time.Second, chunk}}}
	for name, leave := range map[string]func(*http.Response, context.CancelFunc){
		"body closed":       func(resp *http.Response, _ context.CancelFunc) { resp.Body.Close() },
		"context cancelled": func(_ *http.Response, cancel context.CancelFunc) { cancel() },
	} {
		synctest.Test(t, func(t *testing.T) {
			client, log, gone := insideSlow(t, endless, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp, err := post(t, client, ctx, askStream)
			require.NoError(t, err)
			_, err = resp.Body.Read(make([]byte, 4<<10))
			require.NoError(t, err)
			leave(resp, cancel)
			synctest.Wait()
			assert.True(t, *gone, "the backend learns that %s", name)
			assert.Equal(t, audit.StatusCancelled, log.out.Status)
			_, err = resp.Body.Read(make([]byte, 1))
			assert.Error(t, err)
			if name == "context cancelled" {
				assert.ErrorIs(t, err, context.Canceled, "as any transport says it: SDKs tell this from a stream that broke off")
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // before there is an answer
		client, log, gone := insideSlow(t, slow{header: time.Hour}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := post(t, client, ctx, askStream)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		assert.True(t, *gone)
		assert.Equal(t, audit.StatusCancelled, log.out.Status)
	})
	synctest.Test(t, func(t *testing.T) { // while its body is still being sent
		client, _, _ := insideSlow(t, slow{}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		body, _ := io.Pipe() // of which nobody closes the other end
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/v1/chat/completions", body)
		require.NoError(t, err)
		_, err = client.Do(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// Revocation ends a stream, also one that nobody reads.
func TestRoundTripperAndRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agents{cancel: make(chan context.CancelFunc, 1)}
		client, log, _ := insideSlow(t, slow{parts: []slowPart{{0, chunk}, {time.Second, chunk}}}, a)
		resp, err := post(t, client, t.Context(), askStream)
		require.NoError(t, err)
		(<-a.cancel)()
		synctest.Wait()
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Equal(t, audit.GuardRevoked, log.out.ErrorCode)
		require.NoError(t, resp.Body.Close())
	})
}

// A client that does not read its answer keeps nothing here when its agent is revoked,
// or the time is over.
func TestAnswersThatNobodyReads(t *testing.T) {
	for name, end := range map[string]func(revoke context.CancelFunc){
		"revoked":  func(revoke context.CancelFunc) { revoke() },
		"too long": func(context.CancelFunc) { time.Sleep(2 * defaultTimeouts.Total) },
	} {
		synctest.Test(t, func(t *testing.T) {
			a, log := &agents{cancel: make(chan context.CancelFunc, 1)}, &lastOutcome{}
			router, err := newRouter(Config{Backends: []Backend{{Name: "a", BaseURL: "http://a.example", Models: []string{"m"}}}}, permits{}, log,
				&Options{Agents: a, Transport: roundTripFunc(says(200, "x"))})
			require.NoError(t, err)
			resp, err := post(t, &http.Client{Transport: router.RoundTripper(bot)}, t.Context(), `{"model":"m"}`)
			require.NoError(t, err)
			held := func() int64 {
				synctest.Wait()
				router.memory.mu.Lock()
				defer router.memory.mu.Unlock()
				return router.memory.all
			}
			assert.NotZero(t, held(), name)
			end(<-a.cancel)
			assert.Zero(t, held(), name)
			_, err = io.ReadAll(resp.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, audit.StatusOK, log.out.Status, "it was answered, and paid for")
		})
	}
}

// A stream that the door cuts is not taken for whole.
func TestRoundTripperAndCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, log, _ := insideSlow(t, slow{parts: []slowPart{{0, chunk}}}, nil)
		resp, err := post(t, client, t.Context(), askStream)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Contains(t, string(body), "took too long")
		assert.Equal(t, "timeout", log.out.ErrorCode)
		require.NoError(t, resp.Body.Close())
	})
}

// A panic of the host's code is an error of the call, and on record.
func TestRoundTripperAndPanics(t *testing.T) {
	f := newFleet(t, nil)
	f.answers["a"] = func(*http.Request) (*http.Response, error) { panic("a broken transport") }
	_, err := post(t, inside(f, bot), t.Context(), askBig)
	require.ErrorIs(t, err, errCallBroken)
	assert.Equal(t, "aborted", f.outcomes()[0].ErrorCode)
}

// A call that is over before anybody looks says how, each time.
func TestRoundTripperAtOnce(t *testing.T) {
	broken := (&Router{opts: Options{Logger: slog.New(slog.DiscardHandler)}}).RoundTripper(bot) // it panics at once
	for range 2000 {
		_, err := post(t, &http.Client{Transport: broken}, t.Context(), askBig)
		require.ErrorIs(t, err, errCallBroken)
	}
}
