package agentid

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Use says that an agent was given a credential for calls.
type Use struct {
	Credential string
	Calls      int
	First      time.Time
	Last       time.Time
	// Version is the version of the secret that was sent last, if that is on record.
	Version uint64
	// Open counts the calls that have no outcome on record yet.
	Open int
}

// Used lists the credentials that an agent was given since a time, by name: what
// has to be rotated when it turns out to have been taken over. Records are those
// of the audit log, in order, such as from [audit.Log.Query] or [audit.Scan] with
// Filter{Agent: agentID}; a Filter.From of the same time saves reading.
func Used(records iter.Seq2[audit.Record, error], agentID string, since time.Time) ([]Use, error) {
	uses := map[string]*Use{}
	calls := map[uint64]*Use{} // that are under way
	for rec, err := range records {
		switch {
		case err != nil:
			return nil, err
		case rec.Outcome != nil:
			if u := calls[rec.Call]; u != nil {
				delete(calls, rec.Call)
				u.Open--
				u.Version = cmp.Or(rec.Outcome.CredentialVersion, u.Version)
			}
		case rec.Intent == nil || rec.Intent.Credential == nil || rec.Intent.Actor.Agent != agentID || rec.Time.Before(since):
		default:
			name := rec.Intent.Credential.Name
			u := uses[name]
			if u == nil {
				u = &Use{Credential: name, First: rec.Time}
				uses[name] = u
			}
			u.Calls++
			u.Open++
			u.Last = rec.Time
			calls[rec.Seq] = u
		}
	}
	var all []Use
	for _, u := range uses {
		all = append(all, *u)
	}
	slices.SortFunc(all, func(a, b Use) int { return cmp.Compare(a.Credential, b.Credential) })
	return all, nil
}
