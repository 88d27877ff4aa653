package audit

import "context"

// A Mode says which calls wait for the disk. In every mode the line of records
// that wait is bounded ([Options.Queue]), nothing is dropped from it, and once the
// disk has failed every call is refused.
type Mode int

const (
	// Strict waits for all: no act without a durable intent, no answer without a
	// durable outcome.
	Strict Mode = iota
	// StrictIntent does not wait for outcomes. A crash may leave calls open that
	// had been answered, as many as were in line: those of the last 10 ms, and of
	// the write to the disk before.
	StrictIntent
	// BestEffort waits for nothing. A crash may lose what was in line, as of
	// StrictIntent: acts that happened and are not on record.
	BestEffort
)

// String is the name of the mode.
func (m Mode) String() string {
	switch m {
	case Strict:
		return "Strict"
	case StrictIntent:
		return "StrictIntent"
	}
	return "BestEffort"
}

const (
	defaultQueue   = 4096
	defaultReserve = 16 << 20
)

// recordMode puts on record that the log promises less than it could.
func (l *Log) recordMode() error {
	enc, err := body{Event: &Event{
		Kind: KindConfig, Door: DoorAdmin, Action: "open", Resource: "log",
		Detail: map[string]string{"mode": l.mode.String()},
	}}.encode()
	if err != nil {
		return err
	}
	b, _, _, err := l.add(context.Background(), entry{enc: enc})
	if err != nil {
		return err
	}
	return l.wait(context.Background(), b)
}
