package filevault

import (
	"context"
	"fmt"
	"iter"
	"strconv"

	"github.com/twinward-dev/twinward/audit"
)

// A Seal identifies one save of a vault.
type Seal struct {
	Vault      string // the vault's id
	Generation uint64
	SHA256     string // of the whole file, in hexadecimal
}

// A Witness remembers saves in another place than the vault's, so that an old
// file that is put back is seen.
type Witness interface {
	// Remember is called before a save takes effect, and makes it durable; with
	// an error the save does not happen.
	Remember(ctx context.Context, s Seal) error
	// Newest returns the seal of the vault that was remembered last. The Seal is
	// zero if there is none.
	Newest(ctx context.Context, vault string) (Seal, error)
}

// Log is what a [LogWitness] needs of an audit log; [*audit.Log] has it.
type Log interface {
	audit.Recorder
	Query(ctx context.Context, filter audit.Filter) iter.Seq2[audit.Record, error]
}

// ActionSave is what saves are called in the audit log: an event of
// [audit.KindCredential] without a Change, Resource is the vault, Detail
// "generation" and "sha256".
const ActionSave = "save_vault"

// LogWitness remembers saves in the audit log. Newest reads the whole log, once
// for each opening of a vault.
func LogWitness(log Log) Witness { return logWitness{log} }

type logWitness struct{ log Log }

func resource(vault string) string { return "Vault::" + strconv.Quote(vault) }

func (w logWitness) Remember(ctx context.Context, s Seal) error {
	return w.log.Append(ctx, audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: ActionSave, Resource: resource(s.Vault),
		Detail: map[string]string{"generation": strconv.FormatUint(s.Generation, 10), "sha256": s.SHA256},
	})
}

func (w logWitness) Newest(ctx context.Context, vault string) (newest Seal, err error) {
	for r, err := range w.log.Query(ctx, audit.Filter{Kind: audit.KindCredential}) {
		if err != nil {
			return Seal{}, err
		}
		if r.Event.Action != ActionSave || r.Event.Resource != resource(vault) {
			continue
		}
		n, err := strconv.ParseUint(r.Event.Detail["generation"], 10, 64)
		if err != nil {
			return Seal{}, fmt.Errorf("record %d: %w", r.Seq, err)
		}
		newest = Seal{vault, n, r.Event.Detail["sha256"]}
	}
	return newest, nil
}
