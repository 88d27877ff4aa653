package report

// A control is what a text asks of records, and where this page and the log have
// it. The table is that of the package documentation.
type control struct {
	Text, Asks, Records string
	Sections            []section // of the page
}

type section struct{ ID, Name string }

var (
	onAgents      = section{"agents", "Agents"}
	onCauses      = section{"causes", "Denials"}
	onCredentials = section{"credentials", "Credentials"}
	onModels      = section{"models", "Models"}
	onEgress      = section{"egress", "Connections"}
	onProbes      = section{"probes", "Probes"}
	onOpen        = section{"open", "Open calls"}
	onAdmin       = section{"admin", "Administration"}
	onGaps        = section{"gaps", "Repairs"}
	onIntegrity   = section{"integrity", "Integrity"}
	onWould       = section{"would", "Decisions that were not applied"}
)

// Controls are the rows of the table.
func (*page) Controls() []control {
	return []control{
		{"SOC 2 CC6.1", "access is decided by rules", "intent and denial: decision (policies, policy_hash, reason)", []section{onAgents, onCauses}},
		{"SOC 2 CC6.2, CC6.3", "who is registered, authorised, removed; changes of rights", "identity: register_agent, assign_profile, freeze_agent, revoke_agent, reinstate_agent; policy.load; credential: bind, rotate; all with change", []section{onAdmin, onAgents}},
		{"SOC 2 CC6.6", "what crosses the boundary", "compute door: connect (intents and denials), sandbox.launch", []section{onEgress}},
		{"SOC 2 CC6.7", "what secrets went where", "intent: credential; outcome: credential_version; credential.leak", []section{onCredentials, onProbes}},
		{"SOC 2 CC7.1", "changes that introduce weakness", "policy.load; list: drift; denial: pin-drift", []section{onAdmin, onCauses}},
		{"SOC 2 CC7.2", "anomalies are seen", "denial, probe, credential.leak, credential.canary; outcome: status, checks", []section{onCauses, onProbes}},
		{"SOC 2 CC7.3, CC7.4", "events are evaluated and contained", "identity: revoke_agent, freeze_agent (cancelled), outcome: cancelled, open calls", []section{onAdmin, onOpen}},
		{"ISO/IEC 42001 A.6.2.6", "operation of AI systems is monitored", "outcome: status, latency, usage; denial", []section{onAgents, onModels}},
		{"ISO/IEC 42001 A.6.2.8", "event logs of AI systems", "all; gap says where a log was repaired", []section{onIntegrity, onGaps}},
		{"ISO/IEC 42001 A.3.2, A.4", "roles; resources in use", "identity: owner; change.by; model calls: usage, credential", []section{onAgents, onModels, onCredentials}},
		{"AI Act Art. 12(1)", "events are recorded automatically", "all, durable before the act", []section{onIntegrity}},
		{"AI Act Art. 12(2)", "risks, monitoring, oversight can be traced", "denial, decision.would, approval, policy.load", []section{onCauses, onWould, onAdmin}},
		{"AI Act Art. 19, 26(6)", "logs are kept at least six months", "prune: what was removed on record, by whom; verifying shows every other cut", []section{onIntegrity, onAdmin}},
	}
}
