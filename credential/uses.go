package credential

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A VersionUse is how one version of a secret was used, as the audit log has it.
type VersionUse struct {
	// Version is 0 for calls of which the log does not say what they used: those
	// that are under way, were cut off, or ended before the secret was sent; and
	// for those of a public client.
	Version uint64 `json:"version"`
	Calls   uint64 `json:"calls"`
	// Last is when the newest of them began, Record is its number in the log, and
	// Agent whose it was.
	Last   time.Time `json:"last"`
	Record uint64    `json:"record"`
	Agent  string    `json:"agent"`
}

// VersionUses counts the uses of each version of a secret in the records of an
// audit log, such as [audit.Scan] yields, ordered by version. Before the
// previous version is revoked, its last use should be some time ago.
//
// For a credential that is used with grants ([GrantExchanger]) these are the
// versions of the client's secret. A public client has none: all its uses are
// under version 0.
func VersionUses(records iter.Seq2[audit.Record, error], name string) ([]VersionUse, error) {
	uses := make(map[uint64]*VersionUse)
	open := make(map[uint64]audit.Record) // calls without an outcome so far
	count := func(version uint64, call audit.Record) {
		u := uses[version]
		if u == nil {
			u = &VersionUse{Version: version}
			uses[version] = u
		}
		u.Calls++
		if call.Seq > u.Record {
			u.Last, u.Record, u.Agent = call.Time, call.Seq, call.Intent.Actor.Agent
		}
	}
	for r, err := range records {
		switch {
		case err != nil:
			return nil, err
		case r.Intent != nil && r.Intent.Credential != nil && r.Intent.Credential.Name == name:
			open[r.Seq] = r
		case r.Outcome != nil:
			if call, ok := open[r.Call]; ok {
				delete(open, r.Call)
				count(r.Outcome.CredentialVersion, call)
			}
		}
	}
	for _, call := range open {
		count(0, call)
	}
	var all []VersionUse
	for _, u := range uses {
		all = append(all, *u)
	}
	slices.SortFunc(all, func(a, b VersionUse) int { return cmp.Compare(a.Version, b.Version) })
	return all, nil
}
