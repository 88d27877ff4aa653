package governance_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// Whatever one permit demands is demanded, and the strictest wins.
func TestDemands(t *testing.T) {
	s := law(t, `
@id("a") @max_bytes("1000") @rate("10/1m") @redact("$.x, $..token") permit (principal, action == Action::"s__t", resource);
@id("b") @max_bytes("50") @rate("5/1s") @redact("$..token, $.y[*]") permit (principal, action == Action::"s__t", resource) when { context.args has x };
@id("c") @max_bytes("70") permit (principal, action == Action::"s__t", resource) when { context.args has i };
@id("free") permit (principal, action == Action::"s__t", resource);`)
	for _, c := range []struct {
		args, redact string
		bytes        int64
		rates        []governance.PolicyRate
	}{
		{`{}`, "$.x, $..token", 1000, []governance.PolicyRate{{Policy: "a", Rate: governance.Rate{Count: 10, Per: time.Minute}}}},
		{`{"i":1}`, "$.x, $..token", 70, []governance.PolicyRate{{Policy: "a", Rate: governance.Rate{Count: 10, Per: time.Minute}}}},
		{`{"i":1,"x":""}`, "$.x, $..token, $.y[*]", 50, []governance.PolicyRate{
			{Policy: "a", Rate: governance.Rate{Count: 10, Per: time.Minute}}, {Policy: "b", Rate: governance.Rate{Count: 5, Per: time.Second}}}},
	} {
		r := toolCall("a", c.args)
		r.Enforces = []string{"rate", "max_bytes", "redact"}
		d := decide(t, s, r)
		require.True(t, d.Allowed(), d.Reason)
		got, err := d.Demands()
		require.NoError(t, err)
		assert.Equal(t, c.bytes, got.MaxBytes, c.args)
		assert.Equal(t, c.redact, got.Redact.String(), c.args)
		assert.Equal(t, c.rates, got.Rates, c.args)
		assert.Empty(t, got.Approvals, c.args)
	}
	got, err := governance.CombineObligations([]audit.Obligation{
		{Kind: "approval", Value: "ops"}, {Kind: "approval", Value: "legal"}, {Kind: "approval", Value: "ops"},
	})
	require.NoError(t, err)
	assert.Equal(t, []string{"legal", "ops"}, got.Approvals)

	for value, list := range map[string][]audit.Obligation{
		"":         nil,
		"redacted": {{Kind: "record_prompt", Value: "redacted"}, {Kind: "record_prompt", Value: "redacted"}},
		"digest":   {{Kind: "record_prompt", Value: "redacted"}, {Kind: "record_prompt", Value: "digest"}, {Kind: "record_prompt", Value: "redacted"}},
	} {
		got, err := governance.CombineObligations(list)
		require.NoError(t, err)
		assert.Equal(t, value, got.RecordPrompt)
	}

	// A door that reads decisions from elsewhere gets no demands that it could
	// take for none.
	for _, o := range []audit.Obligation{
		{Kind: "max_bytes", Value: "x"}, {Kind: "rate", Value: "10"}, {Kind: "redact", Value: "x"}, {Kind: "watermark", Value: "x"},
		{Kind: "record_prompt", Value: "all"},
	} {
		_, err := governance.CombineObligations([]audit.Obligation{{Kind: "max_bytes", Value: "5"}, o})
		assert.ErrorContains(t, err, o.Kind)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]governance.Rate{
		"10/1m": {Count: 10, Per: time.Minute}, "1/1s": {Count: 1, Per: time.Second}, "10000/24h": {Count: 10000, Per: 24 * time.Hour},
	} {
		got, err := governance.ParseRate(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got)
		again, err := governance.ParseRate(got.String())
		require.NoError(t, err)
		assert.Equal(t, want, again)
	}
	for _, text := range []string{"", "10", "/", "10/", "/1m", "0/1m", "-1/1m", "10001/1m", "1e3/1m", "10/1", "10/0s", "10/-1m", "10/999ms", "10/25h", "10/1m/1h", " 10/1m"} {
		_, err := governance.ParseRate(text)
		assert.Error(t, err, text)
	}
}

// What a policy says about itself goes with it, on every decision.
func TestSeverityAndReason(t *testing.T) {
	s := law(t, `
@id("p") @severity("info") permit (principal, action, resource);
@id("q") @severity("low") @reason("so that it works") permit (principal, action, resource) when { true };
@id("bad") @severity("critical") forbid (principal, action == Action::"s__t", resource) when { context.args has x };
@id("worse") @severity("high") @reason("OPS-7") forbid (principal, action == Action::"s__t", resource) when { context.args has x };
@id("silent") forbid (principal, action == Action::"s__t", resource) when { context.args has i };`)
	d := decide(t, s, toolCall("a", `{}`))
	assert.Equal(t, "low", d.Severity())
	assert.Equal(t, "so that it works", d.Policies[1].Reason)
	d = decide(t, s, toolCall("a", `{"x":""}`))
	assert.Equal(t, "critical", d.Severity())
	assert.Equal(t, []audit.Policy{
		{ID: "bad", Position: "p.cedar:4:1", Severity: "critical"},
		{ID: "worse", Position: "p.cedar:5:1", Severity: "high", Reason: "OPS-7"},
	}, d.Policies)
	assert.Empty(t, decide(t, s, toolCall("a", `{"i":1}`)).Severity())
}
