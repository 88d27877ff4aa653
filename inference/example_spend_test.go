package inference_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// A host says what its models cost, and gives each agent a cent a day.
func ExampleSpend() {
	ctx := context.Background()
	script := inferencetest.NewScript(inferencetest.Turn{Text: "Good morning!"})
	provider := httptest.NewServer(script)
	defer provider.Close()

	cfg, err := inference.ParseConfig("models.yaml", []byte(`
backends:
  - name: scripted
    base_url: `+provider.URL+`/v1
    models: [small]
spend:
  prices:
    scripted/small: {input: 3, output: 15} # dollars for a million tokens
  max_output:
    scripted/*: 500 # tokens, of a call that names no limit
  budgets:
    - {name: a-cent, per: agent, window: day, usd: 0.01}
`))
	check(err)
	ledger := inference.NewMemoryLedger()
	log := &lines{}
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(ctx, governance.Bundle{Policies: []governance.Source{{Name: "models.cedar", Text: `
		@id("models") permit (principal, action == Action::"invoke_model", resource);`}}}, audit.Change{By: "alice", Reason: "example"})
	check(err)
	noon := func() time.Time { return time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC) }
	router, err := inference.NewRouter(cfg, engine, log, &inference.Options{Ledger: ledger, Now: noon})
	check(err)
	defer router.Close()

	client := &http.Client{Transport: router.RoundTripper(audit.Actor{Agent: "bot"})}
	ask := func(limit string) {
		resp, err := client.Post("http://inference.local/v1/chat/completions", "application/json",
			strings.NewReader(`{"model":"small","messages":[{"role":"user","content":"Hello"}]`+limit+`}`))
		check(err)
		resp.Body.Close()
		used, err := ledger.Used(ctx, []string{`a-cent agent "bot" day 2026-11-29T00:00:00Z`})
		check(err)
		fmt.Printf("%d: %d tokens, $%s of $0.01 are used\n", resp.StatusCode, used[0].Tokens, used[0].Cost)
	}
	ask("")
	ask("")
	ask(`,"max_tokens":2000`) // which alone could cost three cents
	fmt.Println(log.denied)
	// Output:
	// 200: 4 tokens, $0.000036 of $0.01 are used
	// 200: 8 tokens, $0.000072 of $0.01 are used
	// 429: 8 tokens, $0.000072 of $0.01 are used
	// [model-budget: a-cent]
}

// lines is a log that keeps what was denied.
type lines struct{ denied []string }

func (l *lines) Begin(context.Context, audit.Intent) (audit.Call, error) { return l, nil }
func (l *lines) Record() uint64                                          { return 0 }
func (l *lines) End(context.Context, audit.Outcome) error                { return nil }
func (l *lines) Append(_ context.Context, e audit.Event) error {
	if e.Kind == audit.KindDenial {
		l.denied = append(l.denied, e.Decision.Reason+": "+e.Detail["budget"])
	}
	return nil
}
