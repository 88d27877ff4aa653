package inference

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

func TestBindings(t *testing.T) {
	for b, want := range map[*Backend][2]string{
		{Preset: "anthropic"}: {"https://api.anthropic.com", "X-Api-Key"},
		{Preset: "openai"}:    {"https://api.openai.com", "Authorization"},
		{Preset: "nvidia"}:    {"https://integrate.api.nvidia.com", "Authorization"},
		{Protocol: Anthropic, BaseURL: "https://proxy.example:443/anthropic/v1"}:      {"https://proxy.example", "X-Api-Key"},
		{Protocol: Gemini, BaseURL: "https://proxy.example/v1beta"}:                   {"https://proxy.example", "X-Goog-Api-Key"},
		{Preset: "openrouter", Protocol: Anthropic}:                                   {"https://openrouter.ai", "Authorization"},
		{Preset: "azure", Vars: map[string]string{"resource": "my-models"}}:           {"https://my-models.openai.azure.com", "Api-Key"},
		{Preset: "azure", Vars: map[string]string{"resource": "r"}, Auth: "bearer"}:   {"https://r.openai.azure.com", "Authorization"},
		{Preset: "bedrock", Vars: map[string]string{"region": "eu-central-1"}}:        {"https://bedrock-runtime.eu-central-1.amazonaws.com", "Authorization"},
		{Preset: "bedrock-anthropic", Vars: map[string]string{"region": "us-east-1"}}: {"https://bedrock-mantle.us-east-1.api.aws", "X-Api-Key"},
	} {
		binding, err := b.Binding()
		require.NoError(t, err)
		assert.Equal(t, want[0], binding.Origin)
		req := &http.Request{Header: http.Header{}}
		require.NoError(t, binding.Scheme.Apply(req, []byte("sk-0123456789")))
		assert.Contains(t, req.Header, want[1])
	}
	_, err := (Backend{BaseURL: "http://example.com"}).Binding()
	assert.ErrorIs(t, err, credential.ErrOrigin)
}

func TestBindingSpecs(t *testing.T) {
	spec, err := (Backend{Preset: "bedrock-anthropic", Auth: "aws_sigv4", Vars: map[string]string{"region": "us-west-2"}}).BindingSpec()
	require.NoError(t, err)
	assert.Equal(t, credential.BindingSpec{
		Origin: "https://bedrock-mantle.us-west-2.api.aws", Type: "aws_sigv4", Region: "us-west-2", Service: "bedrock-mantle",
	}, spec)
	vertex := Backend{Preset: "vertex", Vars: map[string]string{"region": "europe-west1", "project": "p-1"}}
	spec, err = vertex.BindingSpec()
	require.NoError(t, err)
	assert.Equal(t, credential.BindingSpec{
		Origin: "https://europe-west1-aiplatform.googleapis.com", Type: "google_service_account", Scopes: []string{googleScope},
	}, spec)
	_, err = vertex.Binding()
	require.ErrorIs(t, err, credential.ErrSpec)
	assert.ErrorContains(t, err, "credential/oauth")

	_, err = (Backend{Preset: "openai", Auth: "aws_sigv4"}).BindingSpec()
	assert.ErrorIs(t, err, credential.ErrSpec, "it is not AWS")
	_, err = (Backend{Preset: "openai", Auth: "password"}).BindingSpec()
	assert.ErrorIs(t, err, credential.ErrSpec)
}

// where is where a call of the model m goes, for the operations of each protocol.
var where = map[string]map[*operation]string{
	"anthropic":         {opMessages: "https://api.anthropic.com/v1/messages", opCountMessages: "https://api.anthropic.com/v1/messages/count_tokens"},
	"openai":            {opChat: "https://api.openai.com/v1/chat/completions", opResponses: "https://api.openai.com/v1/responses", opEmbeddings: "https://api.openai.com/v1/embeddings"},
	"gemini":            {opGenerate: "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent"},
	"nvidia":            {opChat: "https://integrate.api.nvidia.com/v1/chat/completions"},
	"openrouter":        {opChat: "https://openrouter.ai/api/v1/chat/completions"},
	"nim":               {opChat: "http://127.0.0.1:8000/v1/chat/completions"},
	"ollama":            {opChat: "http://127.0.0.1:11434/v1/chat/completions", opMessages: "http://127.0.0.1:11434/v1/messages"},
	"vllm":              {opChat: "http://127.0.0.1:8000/v1/chat/completions"},
	"llamacpp":          {opChat: "http://127.0.0.1:8080/v1/chat/completions"},
	"azure":             {opChat: "https://var.openai.azure.com/openai/v1/chat/completions"},
	"azure-anthropic":   {opMessages: "https://var.services.ai.azure.com/anthropic/v1/messages"},
	"bedrock":           {opChat: "https://bedrock-runtime.var.amazonaws.com/openai/v1/chat/completions"},
	"bedrock-anthropic": {opMessages: "https://bedrock-mantle.var.api.aws/anthropic/v1/messages"},
	"vertex":            {opStreamGenerate: "https://var-aiplatform.googleapis.com/v1/projects/var/locations/var/publishers/google/models/m:streamGenerateContent"},
	"vertex-openai":     {opChat: "https://var-aiplatform.googleapis.com/v1/projects/var/locations/var/endpoints/openapi/chat/completions"},
	"vertex-anthropic": {
		opMessages:      "https://var-aiplatform.googleapis.com/v1/projects/var/locations/var/publishers/anthropic/models/m:rawPredict",
		opCountMessages: "https://var-aiplatform.googleapis.com/v1/projects/var/locations/var/publishers/anthropic/models/count-tokens:rawPredict",
	},
}

// filled is a backend of a preset, with everything that it asks for.
func filled(name string) Backend {
	b := Backend{Name: name, Preset: name, Credential: "key", Models: []string{"m"}}
	for _, v := range []string{"region", "project", "resource"} {
		if strings.Contains(Presets()[name].BaseURL, "{"+v+"}") {
			if b.Vars == nil {
				b.Vars = map[string]string{}
			}
			b.Vars[v] = "var"
		}
	}
	return b
}

func TestPresets(t *testing.T) {
	require.Len(t, where, len(Presets()))
	for name, p := range Presets() {
		b := filled(name)
		rs, err := compile(Config{Backends: []Backend{b}}, nil)
		require.NoError(t, err, name)
		for _, protocol := range p.Protocols {
			assert.NotNil(t, rs.byModel[routeKey{protocol, "m"}], name)
		}
		for op, url := range where[name] {
			assert.Equal(t, url, rs.byModel[routeKey{op.protocol, "m"}].targets[0].url(op, &envelope{}), name)
		}
		_, err = b.BindingSpec()
		require.NoError(t, err, name)
	}
}

func TestVars(t *testing.T) {
	for _, tc := range []struct {
		vars map[string]string
		want string
	}{
		{nil, `base_url needs "region" in vars`},
		{map[string]string{"region": "eu", "project": "p"}, "more than base_url asks for"},
		{map[string]string{"region": ""}, "1 to 63 of a-z"},
		{map[string]string{"region": "evil.example/#"}, "1 to 63 of a-z"},
		{map[string]string{"region": "{region}"}, "1 to 63 of a-z"},
		{map[string]string{"region": "-eu"}, "1 to 63 of a-z"},
		{map[string]string{"region": "EU"}, "1 to 63 of a-z"},
	} {
		_, err := compile(Config{Backends: []Backend{{Name: "a", Preset: "bedrock", Models: []string{"m"}, Vars: tc.vars}}}, nil)
		require.ErrorIs(t, err, ErrConfig)
		assert.ErrorContains(t, err, tc.want)
	}
	_, err := compile(Config{Backends: []Backend{{Name: "a", BaseURL: "https://x/{", Models: []string{"m"}}}}, nil)
	assert.ErrorContains(t, err, "in vars")
	_, err = compile(Config{Backends: []Backend{{Name: "a", Preset: "vertex-anthropic", Protocol: OpenAI, Models: []string{"m"},
		Vars: map[string]string{"region": "eu", "project": "p"}}}}, nil)
	assert.ErrorContains(t, err, "anthropic only")
}

// Vertex gets the model in the path and a version in its place, and else the
// client's bytes.
func TestVertexForm(t *testing.T) {
	for _, tc := range []struct {
		op        *operation
		body      string
		want, url string
	}{
		{opMessages, `{"model":"asked","max_tokens":5}`, `{"anthropic_version":"vertex-2023-10-16","max_tokens":5}`, "/models/claude@20260101:rawPredict"},
		{opMessages, "{ \"max_tokens\" : 5,\n \"model\" \t:\n \"asked\" ,\"stream\": true, \"messages\":[{\"role\":\"user\",\"content\":\"\\\"model\\\":\\\"x\\\"\"}] }",
			"{ \"max_tokens\" : 5,\n \"anthropic_version\":\"vertex-2023-10-16\" ,\"stream\": true, \"messages\":[{\"role\":\"user\",\"content\":\"\\\"model\\\":\\\"x\\\"\"}] }",
			"/models/claude@20260101:streamRawPredict"},
		{opCountMessages, `{"model":"asked","messages":[]}`, `{"anthropic_version":"vertex-2023-10-16","model":"claude@20260101","messages":[]}`, "/models/count-tokens:rawPredict"},
	} {
		env := envelope{}
		require.NoError(t, scan(tc.op, []byte(tc.body), &env), tc.body)
		env.form = vertexForm
		got := rewrite(tc.op, []byte(tc.body), &env, "claude@20260101")
		assert.Equal(t, tc.want, string(got))
		target := &target{backend: &Backend{wire: vertexForm}, model: "claude@20260101", base: "https://x"}
		assert.Equal(t, "https://x"+tc.url, target.url(tc.op, &env))
	}
}

func FuzzVertexForm(f *testing.F) {
	f.Add([]byte(`{"model":"asked","max_tokens":5}`))
	f.Add([]byte("{\"max_tokens\":5, \"model\"\n:\t\"a\"}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		env := envelope{}
		if scan(opMessages, body, &env) != nil {
			return
		}
		env.form = vertexForm
		got := rewrite(opMessages, body, &env, "m")
		require.Equal(t, 1, strings.Count(string(got), vertexVersion)-strings.Count(string(body), vertexVersion))
		again := envelope{}
		_ = scan(opMessages, got, &again)
		require.True(t, again.model.empty(), "the body still names a model")
	})
}
