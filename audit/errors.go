package audit

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrFailed is returned, wrapping the cause, by every write after a write or
	// a sync has failed. What had been acknowledged is safe. The log never tries
	// again by itself: after a failed sync the kernel may have dropped the bytes
	// and report success the next time. Remove the cause and open the log anew.
	ErrFailed = errors.New("audit: the log has failed and refuses everything until it is opened anew")
	// ErrFull is returned for intents and events when so little space is left that
	// it is kept for the outcomes of calls that are under way
	// ([Options.Reserve]). Nothing is written. It ends when there is space again.
	ErrFull = errors.New("audit: the disk is nearly full, and what is left is kept for the outcomes of running calls: free some space")
	// ErrBusy is returned, wrapping the context's error, when the context ended
	// before the log got to the record. The act must not happen.
	ErrBusy = errors.New("audit: the log did not get to the record in time")
	// ErrClosed is returned by writes after Close.
	ErrClosed = errors.New("audit: the log is closed")
	// ErrLocked is returned by [Open] while another writer has the log open.
	ErrLocked = errors.New("audit: another writer has this log open: a log has one writer at a time")
	// ErrTampered is returned when bytes of a log are not what was signed.
	ErrTampered = errors.New("audit: the log was changed")
	// ErrEmpty is returned by the readers for a log without a first checkpoint.
	// Its writer was stopped before it had promised anything to anyone, or all
	// that it wrote was removed: only an [Anchor] tells these apart.
	ErrEmpty = errors.New("audit: there is nothing in the log: its writer was stopped before the first record, or all was removed")
	// ErrTooLarge is returned for a record above [MaxRecord]. Nothing is written.
	ErrTooLarge = errors.New("audit: the record is too large")
	// ErrNotAllowed is returned by Begin for an intent that nothing allows.
	ErrNotAllowed = errors.New("audit: an intent needs a decision that allows it: record a refused act with Append")
	// ErrInvalid is returned for a record that cannot be written down as it is.
	ErrInvalid = errors.New("audit: not a valid record")
	// ErrKey is returned when the key of a log is missing, unsafe or unreadable.
	ErrKey = errors.New("audit: the log's key cannot be used")
	// ErrAnchor is returned when an anchor is misplaced, cannot be read on opening
	// or cannot be published to.
	ErrAnchor = errors.New("audit: an anchor of the log cannot be used")
	// ErrNoValues is returned for what is about values by a log that was opened
	// without them ([Options.NoValues], or [New] without [Options.Values]).
	ErrNoValues = errors.New("audit: the log was opened without its values")
	// ErrNotKept is returned for the value of a record that never had one kept.
	ErrNotKept = errors.New("audit: the arguments of this record were not kept")
	// ErrGone is returned for a value that was kept and is not there any more. The
	// log's events of [KindErasure] say whether it was erased; see [Values.Check].
	ErrGone = errors.New("audit: the value is gone: erased, pruned or lost")
	// ErrHeld is returned, naming the matters, for an erasure that a legal hold
	// forbids. Nothing was erased.
	ErrHeld = errors.New("audit: a legal hold forbids it")
	// ErrPruned is returned for what was removed on record ([Log.PruneRecords]), also
	// when that happened while it was being read: then read again.
	ErrPruned = errors.New("audit: these records were pruned")
	// ErrDisclosure is returned for a disclosure that does not prove what it should.
	ErrDisclosure = errors.New("audit: this is no disclosure of that record")
)

// failed turns the cause of a failed write into the error that sticks.
func failed(cause error) error {
	if isDiskFull(cause) {
		return fmt.Errorf("%w: the disk is full (free some space first): %w", ErrFailed, cause)
	}
	return fmt.Errorf("%w: %w", ErrFailed, cause)
}

// tamperedf returns an error that wraps [ErrTampered].
func tamperedf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrTampered}, args...)...)
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.Is(err, errDiskFull)
}
