package audit

import "time"

// Pending is how many records wait for the batch that is being written.
func (l *Log) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open.ends)
}

// ParseRecord is what readers decode lines with.
var ParseRecord = parseRecord

// MaxBatch is how many bytes may wait.
const MaxBatch = maxBatch

// EndMinute is what happens when a minute with floods is over.
func (l *Log) EndMinute() { l.minuteOver() }

// FloodsLocked reports whether somebody is counting a denial.
func (l *Log) FloodsLocked() bool { return len(l.floods.lock) > 0 }

// The parsers of what is kept beside the log.
var (
	ParseValueLine = parseValueLine
	ParseKeyLine   = parseKeyLine
	ParseSubject   = parseSubject
	ParseKEKs      = parseKEKs
	SubjectDetail  = Subject.detail
)

// Encode is how a data key is stored.
func (k keyLine) Encode() ([]byte, error) { return k.encode() }

// Linger has records that nobody waits for gather for as long as d.
func (o *Options) Linger(d time.Duration) *Options {
	o.linger = d
	return o
}

// Batches is how many checkpoints there are.
func (l *Log) Batches() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.Batch
}
