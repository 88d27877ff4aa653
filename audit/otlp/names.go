package otlp

import "github.com/twinward-dev/twinward/audit"

// Every name that this package sends is here. Those of gen_ai, mcp, error, user and
// session are of OpenTelemetry's semantic conventions for GenAI and MCP (repository
// semantic-conventions-genai, v0.1.0, status Development: they may be renamed). The
// ones of decisions are those of the engine's own spans and metrics. The others are
// ours.
const (
	scopeName   = "github.com/twinward-dev/twinward/audit"
	serviceName = "service.name"
	instanceID  = "service.instance.id"
	recordUID   = "log.record.uid"

	errorType = "error.type"
	userID    = "user.id"
	sessionID = "session.id"

	agentID         = "gen_ai.agent.id"
	operationName   = "gen_ai.operation.name"
	toolName        = "gen_ai.tool.name"
	promptName      = "gen_ai.prompt.name"
	providerName    = "gen_ai.provider.name"
	requestModel    = "gen_ai.request.model"
	responseModel   = "gen_ai.response.model"
	inputTokens     = "gen_ai.usage.input_tokens"
	outputTokens    = "gen_ai.usage.output_tokens"
	cacheReadTokens = "gen_ai.usage.cache_read.input_tokens"
	cacheNewTokens  = "gen_ai.usage.cache_creation.input_tokens"
	reasoningTokens = "gen_ai.usage.reasoning.output_tokens"

	mcpMethod      = "mcp.method.name"
	mcpResourceURI = "mcp.resource.uri"

	attrDoor         = "twinward.door"
	attrAction       = "twinward.action"
	attrResource     = "twinward.resource"
	attrInstance     = "twinward.agent.instance"
	attrProfile      = "twinward.agent.profile"
	attrIssuer       = "twinward.agent.issuer"
	attrDecision     = "twinward.decision.id"
	attrEffect       = "twinward.decision.effect"
	attrReason       = "twinward.decision.reason"
	attrPolicies     = "twinward.decision.policies"
	attrPolicyHash   = "twinward.policy.hash"
	attrApprovedBy   = "twinward.approval.by"
	attrCredential   = "twinward.credential.name"
	attrVersion      = "twinward.credential.version"
	attrToolPin      = "twinward.tool.pin"
	attrCall         = "twinward.call.record"
	attrStatus       = "twinward.outcome.status"
	attrBytes        = "twinward.outcome.bytes"
	attrChecks       = "twinward.outcome.checks"
	attrLabels       = "twinward.outcome.labels"
	attrCost         = "twinward.usage.cost_micro_usd"
	attrCharged      = "twinward.usage.charged_micro_usd"
	attrCount        = "twinward.event.count"
	attrSource       = "twinward.event.source"
	attrChangeBy     = "twinward.change.by"
	attrChangeReason = "twinward.change.reason"
	attrSize         = "twinward.checkpoint.size"
	attrRoot         = "twinward.checkpoint.root"

	// What a log record is about.
	eventPrefix     = "twinward.audit."
	eventIntent     = eventPrefix + "intent"
	eventOutcome    = eventPrefix + "outcome"
	eventCheckpoint = eventPrefix + "checkpoint"

	opTool      = "execute_tool"
	opChat      = "chat"
	opEmbedding = "embeddings"
	toolError   = "tool_error"
)

// methods are the MCP methods of actions at the tool door. Any other action there
// is a tool's own.
var methods = map[string]string{
	"list_tools":    "tools/list",
	"get_prompt":    "prompts/get",
	"read_resource": "resources/read",
	"complete":      "completion/complete",
	"subscribe":     "resources/subscribe",
	"sample":        "sampling/createMessage",
	"elicit":        "elicitation/create",
}

const methodCall = "tools/call"

// operations are the GenAI operations of actions at the model door.
var operations = map[string]string{"invoke_model": opChat, "embed": opEmbedding}

// kinds are the severities of events that are more than information.
var kinds = map[audit.Kind]severity{
	audit.KindDenial: warn, audit.KindProbe: warn, audit.KindFlood: warn, audit.KindGap: warn, audit.KindLeak: bad, audit.KindCanary: bad,
}
