package mcpx

import (
	"context"
	"errors"
	"slices"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// Whoever may use a tool may see it, so that no permit for lists is needed. What
// policy says of the action list_tools holds all the same: a forbid takes the tools of
// a server out of lists and searches, and what a permit demands there, such as a
// rate, has to be met, or there is no list.

// listed keeps of what the actor could use the tools of those servers whose tools may
// be listed to it, and names the others.
func listed[T any](ctx context.Context, g *governor, q *query, items []T, ref func(T) governance.ToolRef) (kept []T, withheld []string, no *refusal) {
	servers := make(map[string]bool)
	kept = make([]T, 0, len(items)) // never JSON null
	for _, item := range items {
		server := ref(item).Server
		show, known := servers[server]
		if !known {
			d := g.decide(ctx, governance.Request{Actor: q.actor, Action: "list_tools", Server: server})
			d.Settle(governance.Result{OK: true})
			switch {
			case d.Allowed(), d.Reason == audit.ReasonNoPermit && len(d.Policies) == 0:
				show = true
			case audit.IsGuard(d.Reason) && d.Reason != audit.ReasonNoPermit && !d.Hidden:
				r := decided(d)
				return nil, nil, &r
			default:
				withheld = append(withheld, server)
			}
			servers[server] = show
		}
		if show {
			kept = append(kept, item)
		}
	}
	slices.Sort(withheld)
	return kept, withheld, nil
}

// unseen is why nothing can be listed.
func unseen(err error) refusal {
	if errors.Is(err, governance.ErrStale) {
		return refused(audit.GuardStale)
	}
	return refused(audit.GuardPolicyError)
}
