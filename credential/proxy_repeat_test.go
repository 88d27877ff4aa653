package credential_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A connection that was used before breaks without an answer: what changes nothing
// is asked again, once, within the same call; what may have changed something is not.
func TestProxyRepeatsOnlyWhatChangesNothing(t *testing.T) {
	for name, times := range map[string]int{"GET": 2, "POST": 1, "DELETE": 1, "POST with a key": 2} {
		t.Run(name, func(t *testing.T) {
			method, _, keyed := strings.Cut(name, " ")
			breaks := false
			p := newProxied(t, func(w http.ResponseWriter, r *http.Request) {
				if breaks {
					breaks = false
					panic(http.ErrAbortHandler)
				}
			})
			ask := func(method string) int {
				req, err := http.NewRequestWithContext(t.Context(), method, p.door.URL+"/x", strings.NewReader(""))
				require.NoError(t, err)
				if keyed {
					req.Header.Set("Idempotency-Key", "one of the agent's")
				}
				resp, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				resp.Body.Close()
				<-p.ended
				return resp.StatusCode
			}
			require.Equal(t, http.StatusOK, ask(http.MethodGet)) // the connection is there
			breaks = true
			status := ask(method)
			assert.Equal(t, times == 2, status == http.StatusOK)
			assert.Len(t, p.seen, 1+times)
			assert.Len(t, p.outcomes, 2)
		})
	}
}
