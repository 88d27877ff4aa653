package openbao

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

// answers is a server that answers logins rightly and everything else with the
// same status and body.
type answers struct {
	status int
	body   []byte
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := a.status, a.body
	if strings.HasPrefix(r.URL.Path, "/v1/auth/") {
		status, body = 200, []byte(`{"auth":{"client_token":"hvs.token"}}`)
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// FuzzAnswer lets a server answer anything: nothing panics, no error shows the
// answer, and what is taken for a version has a number and a state.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"data":{"current_version":2,"max_versions":9,"versions":{"1":{"created_time":"2026-01-02T03:04:05.6Z","deletion_time":"","destroyed":true},"2":{"created_time":"2026-01-02T03:04:06Z"}}}}`,
		`{"data":{"data":{"1":{"state":"current","created":"2026-01-02T03:04:05Z"}},"metadata":{"created_time":"2026-01-02T03:04:05Z","version":1},"current_version":1,"versions":{"1":{"created_time":"2026-01-02T03:04:05Z"}}}}`,
		`{"data":{"data":{"value":"a\u0062c"},"metadata":{"created_time":"2026-01-02T03:04:05Z","version":1}}}`,
		`{"data":{"keys":["a","b/","../c"]}}`,
		`{"errors":["Vault is sealed"]}`,
		`{"data":null}`,
	} {
		f.Add(200, []byte(s))
		f.Add(404, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 100 || status > 999 {
			return
		}
		s, err := New("https://vault.example", AppRole("role", secret("secret-id")), &Options{
			HTTP: &http.Client{Transport: answers{status, body}},
		})
		require.NoError(t, err)
		defer s.Close()
		hidden := func(err error) {
			if err != nil && len(body) >= 16 && strings.Contains(err.Error(), string(body)) {
				t.Fatal("the error shows the answer")
			}
		}
		one, _, err := s.Get(t.Context(), credential.Ref{Name: "n"})
		hidden(err)
		versions := []credential.Version{one}
		if err != nil {
			versions = nil
		}
		for _, name := range []string{"n", ""} {
			list, err := s.List(t.Context(), name)
			hidden(err)
			versions = append(versions, list...)
		}
		for _, v := range versions {
			require.Contains(t, states, v.State)
			require.NotZero(t, v.Ref.Version)
			require.NoError(t, credential.CheckName(v.Ref.Name))
		}
		_, err = s.Put(t.Context(), "n", secret("a secret value"), 1, "note")
		hidden(err)
		hidden(s.SetState(t.Context(), credential.Ref{Name: "n", Version: 1}, credential.StatePending, credential.StateCurrent))
	})
}
