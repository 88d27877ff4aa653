package inference_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// An agent that speaks Anthropic's messages uses a backend that understands chat
// completions only. The host says what may be lost on the way.
func ExampleTranslate() {
	backend := httptest.NewServer(inferencetest.NewScript(inferencetest.Turn{Text: "Good morning!"}))
	defer backend.Close()
	cfg, err := inference.ParseConfig("models.yaml", []byte(`
backends:
  - name: nim
    base_url: `+backend.URL+`/v1
    models: [nemotron]
    translate:
      protocols: [anthropic, openai-responses]
      ignore: [thinking]
`))
	check(err)

	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	log, err := audit.Open(filepath.Join(dir, "log"), nil)
	check(err)
	defer log.Close()
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(context.Background(), governance.Bundle{Policies: []governance.Source{{Name: "models.cedar", Text: `
		@id("nemotron")
		permit (principal == Agent::"bot", action == Action::"invoke_model", resource == Model::"nim/nemotron");`}}},
		audit.Change{By: "alice", Reason: "example"})
	check(err)
	router, err := inference.NewRouter(cfg, engine, log, nil)
	check(err)
	defer router.Close()

	ask := func(body string) {
		r := httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(body))
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), audit.Actor{Agent: "bot", Issuer: "session", Session: "s1"})))
		var answer struct {
			Content []struct{ Text string }
			Error   struct{ Message string }
		}
		check(json.Unmarshal(w.Body.Bytes(), &answer))
		for _, c := range answer.Content {
			fmt.Println(w.Code, c.Text)
		}
		if said, _, refused := strings.Cut(answer.Error.Message, " (decision"); refused {
			fmt.Println(w.Code, said)
		}
	}
	ask(`{"model":"nemotron","max_tokens":99,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"Hello"}]}`)
	ask(`{"model":"nemotron","max_tokens":99,"top_k":40,"messages":[{"role":"user","content":"Hello"}]}`)
	// Output:
	// 200 Good morning!
	// 400 the request cannot be translated for the backend of this model: top_k: the backend has no such parameter (the host may ignore "top_k")
}
