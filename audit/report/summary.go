package report

import (
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Summary answers the auditor's questions: who acted, what was done and what
// was refused, by which policy, and who authorised it. It is plain data, for a
// page ([Summary.HTML]), for JSON, or for a program.
//
// Its size is bounded whatever is on record: single records are listed up to
// [Options.MaxRows] a table, and names beyond a limit are counted together under
// [Others]. Totals always count everything.
type Summary struct {
	Title string `json:"title"`
	// Written is the time of writing: [Options.Now].
	Written time.Time `json:"written"`
	// Agent, From and To are what was asked for; empty and zero mean all.
	Agent string    `json:"agent,omitempty"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
	// Logs are the logs that were read, in the order given.
	Logs []LogStatement `json:"logs"`
	// Records counts those that the summary is about: in the period, of the
	// agent. First and Last are the earliest and the latest time among them.
	Records uint64    `json:"records"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
	Total   Tally     `json:"total"`
	// Agents are sorted by name. An empty name is nobody: requests that came
	// without an identity.
	Agents []Agent `json:"agents,omitempty"`
	// Timeline counts acts over time.
	Timeline Timeline `json:"timeline"`
	// Denials are grouped by agent, operation and cause, the most frequent first.
	Denials     []Denial        `json:"denials,omitempty"`
	Credentials []CredentialUse `json:"credentials,omitempty"`
	Models      []ModelUse      `json:"models,omitempty"`
	Egress      []Egress        `json:"egress,omitempty"`
	// Would counts what policies that are not enforced would have decided
	// otherwise.
	Would []Would `json:"would,omitempty"`
	// Single records, oldest first.
	DenialRows Rows `json:"denial_rows"` // every denial
	ProbeRows  Rows `json:"probe_rows"`  // attempts below the doors, and secrets found in answers
	OpenRows   Rows `json:"open_rows"`   // allowed acts without an outcome
	AdminRows  Rows `json:"admin_rows"`  // acts of people
	GapRows    Rows `json:"gap_rows"`    // repairs of a log
	CitedRows  Rows `json:"cited_rows"`  // the first call of each sentence; it leaves out what is elsewhere
}

// Others is the name under which agents, operations, hosts and so on are counted
// together when there are too many to list.
const Others = "(others)"

// A LogStatement says how far one log can be trusted.
type LogStatement struct {
	// Origin is the log's name, empty if nobody said it.
	Origin string `json:"origin,omitempty"`
	// Read counts the records that were read, also those outside the period.
	Read uint64 `json:"read"`
	// Verified is what verifying the log found; nil if it was not verified.
	Verified *audit.VerifyReport `json:"verified,omitempty"`
	// Failure is why verification failed, empty if it did not.
	Failure string `json:"failure,omitempty"`
}

// A Ref names one record. Together with the log's origin, Seq is what a proof is
// made for.
type Ref struct {
	Origin string    `json:"origin,omitempty"`
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
}

// String is the reference in words.
func (r Ref) String() string {
	s := "record " + strconv.FormatUint(r.Seq, 10)
	if r.Origin != "" {
		s += " of " + r.Origin
	}
	return s
}

// A Tally counts acts by how they ended.
type Tally struct {
	Done      uint64 `json:"done"`
	Failed    uint64 `json:"failed"`
	Cancelled uint64 `json:"cancelled"`
	Open      uint64 `json:"open"`   // no outcome on record: under way, or cut off by a crash
	Denied    uint64 `json:"denied"` // with those that were only counted
}

// Allowed counts the acts that were allowed, however they ended.
func (t Tally) Allowed() uint64 { return t.Done + t.Failed + t.Cancelled + t.Open }

func (t *Tally) add(u Tally) {
	t.Done += u.Done
	t.Failed += u.Failed
	t.Cancelled += u.Cancelled
	t.Open += u.Open
	t.Denied += u.Denied
}

// An Agent is what one agent did.
type Agent struct {
	Name string `json:"name"`
	Tally
	// Users are the people it acted for, sorted, and no more than a few.
	Users Few `json:"users"`
	// Sentences say it in plain words: first what was done, then what was not.
	Sentences []Sentence `json:"sentences"`
	// Operations are sorted by door and action.
	Operations []Operation `json:"operations"`
	// Events count what is on record about the agent besides acts.
	Events []EventCount `json:"events,omitempty"`
	// Authorities are under what the agent's acts were allowed, in the order of
	// first use. Every allowed act was under one of them.
	Authorities []Authority `json:"authorities,omitempty"`
	// Cost and Charged are those of all its models, as in [ModelUse].
	Cost    int64 `json:"cost_micro_usd,omitempty"`
	Charged int64 `json:"charged_micro_usd,omitempty"`
}

// A Sentence is one line of what an agent did.
type Sentence struct {
	Text string `json:"text"`
	// Status is how the acts ended: "done", "failed", "cancelled", "open" or
	// "denied".
	Status string `json:"status"`
	Door   string `json:"door"`
	Action string `json:"action"`
	Count  uint64 `json:"count"`
	// First is a record to start reading from.
	First Ref `json:"first"`
}

// An Operation is one action of one door, as one agent used it.
type Operation struct {
	Door   string `json:"door"`
	Action string `json:"action"`
	Tally
	// Resources are some of those that it was allowed on.
	Resources Few `json:"resources"`
	// Policies are the ids of the policies that allowed it.
	Policies Few `json:"policies"`
	// Authorities are indexes into [Agent.Authorities], at most a few.
	Authorities []int `json:"authorities,omitempty"`
	// Bytes went back to the agent.
	Bytes int64 `json:"bytes"`
	First Ref   `json:"first"`
	Last  Ref   `json:"last"`
}

// An EventCount counts events of one kind and action.
type EventCount struct {
	Kind   audit.Kind `json:"kind"`
	Action string     `json:"action"`
	Count  uint64     `json:"count"`
}

// A Denial is a group of denials for one cause.
type Denial struct {
	Agent    string `json:"agent"`
	Door     string `json:"door"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	// Reason is [audit.Decision.Reason], and Cause the same in words.
	Reason string `json:"reason"`
	Cause  string `json:"cause"`
	// Policies decided it, with their positions.
	Policies   []audit.Policy `json:"policies,omitempty"`
	PolicyHash string         `json:"policy_hash,omitempty"`
	Count      uint64         `json:"count"`
	First      Ref            `json:"first"`
	Last       Ref            `json:"last"`
}

// A CredentialUse is how often an agent used one credential.
type CredentialUse struct {
	Name  string `json:"name"`
	Agent string `json:"agent"`
	Uses  uint64 `json:"uses"`
	// Versions are those that were sent, as outcomes say.
	Versions Few `json:"versions"`
	// Policies allowed the use.
	Policies Few `json:"policies"`
	Last     Ref `json:"last"`
}

// A ModelUse counts the tokens of one model, as in [audit.Usage].
type ModelUse struct {
	Model string `json:"model"`
	Agent string `json:"agent"`
	Calls uint64 `json:"calls"`
	// Partial counts calls whose stream was cut before the backend told its
	// counts: the real ones may be higher.
	Partial    uint64 `json:"partial"`
	Input      int64  `json:"input"`
	Output     int64  `json:"output"`
	CacheRead  int64  `json:"cache_read"`
	CacheWrite int64  `json:"cache_write"`
	Reasoning  int64  `json:"reasoning"`
	// Cost is what the tokens cost by the host's prices, and Charged what counted
	// against budgets, both in millionths of a US dollar. They differ where nobody
	// knows the real counts, or where a call was sent more than once.
	Cost    int64 `json:"cost_micro_usd,omitempty"`
	Charged int64 `json:"charged_micro_usd,omitempty"`
}

// Egress counts connections out of the sandbox to one host.
type Egress struct {
	Resource string `json:"resource"`
	Agent    string `json:"agent"`
	Allowed  uint64 `json:"allowed"`
	Denied   uint64 `json:"denied"`
}

// A Would counts decisions that were made beside the one in force.
type Would struct {
	Agent  string            `json:"agent"`
	Action string            `json:"action"`
	Source audit.WouldSource `json:"source"`
	Effect audit.Effect      `json:"effect"`
	Reason string            `json:"reason,omitempty"`
	Count  uint64            `json:"count"`
	First  Ref               `json:"first"`
}

// Rows are single records, no more than the limit.
type Rows struct {
	List []Row `json:"list,omitempty"`
	// LeftOut is how many more there are.
	LeftOut uint64 `json:"left_out,omitempty"`
}

// A Row is one record of one log.
type Row struct {
	Origin string       `json:"origin,omitempty"`
	Record audit.Record `json:"record"`
}

// Ref names the row's record.
func (r Row) Ref() Ref { return Ref{r.Origin, r.Record.Seq, r.Record.Time} }

// Count is how many there are, listed or not.
func (r Rows) Count() uint64 { return uint64(len(r.List)) + r.LeftOut }

func (r *Rows) keep(row Row, limit int) {
	if len(r.List) >= limit {
		r.LeftOut++
		return
	}
	r.List = append(r.List, row)
}

// Few are the first few different words of a kind, sorted.
type Few struct {
	List []string `json:"list,omitempty"`
	// More says that there were others.
	More bool `json:"more,omitempty"`
}
