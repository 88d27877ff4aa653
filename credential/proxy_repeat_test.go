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
	for method, times := range map[string]int{http.MethodGet: 2, http.MethodPost: 1, http.MethodDelete: 1} {
		t.Run(method, func(t *testing.T) {
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
