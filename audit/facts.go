package audit

import "time"

// Facts are what an allowed act adds to the history that later decisions look
// back on. They stand in the decision, which is durable before the act; the
// outcome says whether they stay. A history can be rebuilt from them.
type Facts struct {
	// At is the time of the decision, from which the act counts.
	At time.Time `json:"at"`
	// KeyID names the secret key of the hashes in Add, "" when there are none.
	KeyID string      `json:"key_id,omitempty"`
	Add   []FactEvent `json:"add,omitempty"`
	// Labels are those that the act puts on the rest of the session.
	Labels []string `json:"labels,omitempty"`
}

// A FactEvent is one act as one fact counts it. Arguments are in it only as
// keyed hashes, but for an amount that is summed.
type FactEvent struct {
	Fact string `json:"fact"`
	// Def identifies the definition of the fact.
	Def string `json:"def"`
	// Key is the hash of the arguments that the fact is kept apart by.
	Key string `json:"key,omitempty"`
	// Values are the hashes of values whose difference is counted.
	Values []string `json:"values,omitempty"`
	// Amount is what is summed, as it was; a negative one counts as 0.
	Amount int64 `json:"amount,omitzero"`
	// Reset: the act ends what the fact says, instead of beginning it.
	Reset bool `json:"reset,omitzero"`
}
