package filevault

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Seal identifies one save of a vault.
type Seal struct {
	Vault      string // the vault's id
	Generation uint64
	SHA256     string // of the whole file, in hexadecimal
	// At is when it was remembered. [Witness.Newest] sets it.
	At time.Time
}

// A Witness remembers saves in another place than the vault's, so that an old
// file that is put back is seen.
type Witness interface {
	// Remember is called before a save takes effect, and makes it durable; with
	// an error the save does not happen. What was remembered more than a day ago
	// is remembered again, so that old records may be pruned.
	Remember(ctx context.Context, s Seal) error
	// Newest returns the seal of the vault that was remembered last. The Seal is
	// zero if there is none.
	Newest(ctx context.Context, vault string) (Seal, error)
}

// Log is what a [LogWitness] needs of an audit log; [*audit.Log] has it.
type Log interface {
	audit.Recorder
	Size() uint64
	Follow(ctx context.Context, seq uint64) iter.Seq2[audit.Record, error]
}

// ActionSave is what saves are called in the audit log: an event of
// [audit.KindCredential] without a Change, Resource is the vault, Detail
// "generation" and "sha256".
const ActionSave = "save_vault"

// LogWitness remembers saves in the audit log. Newest reads the log from its end
// backwards, in growing pieces, until it finds a save of the vault.
func LogWitness(log Log) Witness { return logWitness{log} }

type logWitness struct{ log Log }

func resource(vault string) string { return "Vault::" + strconv.Quote(vault) }

func (w logWitness) Remember(ctx context.Context, s Seal) error {
	return w.log.Append(ctx, audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: ActionSave, Resource: resource(s.Vault),
		Detail: map[string]string{"generation": strconv.FormatUint(s.Generation, 10), "sha256": s.SHA256},
	})
}

func (w logWitness) Newest(ctx context.Context, vault string) (Seal, error) {
	size := w.log.Size()
	for window := uint64(1 << 12); ; window <<= 6 {
		first := uint64(1)
		if window < size {
			first = size - window + 1
		}
		newest, err := w.newest(ctx, vault, first, size)
		if err != nil || newest != (Seal{}) || first == 1 {
			return newest, err
		}
	}
}

// newest is the last one among some records.
func (w logWitness) newest(ctx context.Context, vault string, first, last uint64) (newest Seal, err error) {
	if last == 0 {
		return Seal{}, nil
	}
	for r, err := range w.log.Follow(ctx, first) {
		if err != nil {
			return Seal{}, err
		}
		if ev := r.Event; ev != nil && ev.Kind == audit.KindCredential && ev.Action == ActionSave && ev.Resource == resource(vault) {
			n, err := strconv.ParseUint(ev.Detail["generation"], 10, 64)
			if err != nil {
				return Seal{}, fmt.Errorf("record %d: %w", r.Seq, err)
			}
			newest = Seal{vault, n, ev.Detail["sha256"], r.Time}
		}
		if r.Seq >= last { // what is written meanwhile is not waited for
			return newest, nil
		}
	}
	return Seal{}, fmt.Errorf("the log ended before record %d: %w", last, context.Cause(ctx))
}
