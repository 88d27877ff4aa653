package openbao

import (
	"context"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// Watch implements [credential.Watcher]: it lists all versions every
// [Options.Poll], give or take a fifth, and yields what has changed. A change
// that is undone between two looks is not seen.
func (s *Store) Watch(ctx context.Context) iter.Seq2[credential.Ref, error] {
	return func(yield func(credential.Ref, error) bool) {
		var known map[credential.Ref]credential.Version // nil before the first look, and after a failed one
		for {
			list, err := s.List(ctx, "")
			if ctx.Err() != nil {
				return
			}
			switch {
			case err != nil:
				known = nil
				if !yield(credential.Ref{}, err) {
					return
				}
			case known == nil:
				known = byRef(list)
				if !yield(credential.Ref{}, nil) {
					return
				}
			default:
				next := byRef(list)
				for _, ref := range changes(known, next) {
					if !yield(ref, nil) {
						return
					}
				}
				known = next
			}
			jitter := 0.8 + 0.4*rand.Float64()
			select {
			case <-ctx.Done():
				return
			case <-s.session.ctx.Done():
				yield(credential.Ref{}, &Error{Op: "watch", kind: ErrClosed})
				return
			case <-time.After(time.Duration(jitter * float64(s.opts.Poll))):
			}
		}
	}
}

func byRef(list []credential.Version) map[credential.Ref]credential.Version {
	m := make(map[credential.Ref]credential.Version, len(list))
	for _, v := range list {
		m[v.Ref] = v
	}
	return m
}

// changes returns what is new, in another state, or gone.
func changes(old, now map[credential.Ref]credential.Version) []credential.Ref {
	var refs []credential.Ref
	for ref, v := range now {
		if was, ok := old[ref]; !ok || was.State != v.State || !was.Created.Equal(v.Created) {
			refs = append(refs, ref)
		}
	}
	for ref := range old {
		if _, ok := now[ref]; !ok {
			refs = append(refs, ref)
		}
	}
	return refs
}
