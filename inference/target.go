package inference

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// A target is a model of a backend, one of those that can answer a route.
type target struct {
	backend  *Backend
	model    string // as policy and the backend know it
	protocol Protocol
	// translated: clients speak protocol, and the backend chat completions.
	translated bool
	base       string // the backend's URL, without a slash at the end
	origin     string // where the key may go; empty without a credential
	weight     int
	priority   int
	limits     Timeouts
	breaker    *breaker
}

// String names the target as it stands in the log: backend and model.
func (t *target) String() string { return t.backend.Name + "/" + t.model }

// wire is the protocol that the backend is spoken to.
func (t *target) wire() Protocol {
	if t.translated {
		return OpenAI
	}
	return t.protocol
}

// url is where a call goes.
func (t *target) url(op *operation, env *envelope) string {
	switch {
	case t.translated:
		op = opChat
	case t.backend.wire == vertexForm:
		return t.base + vertexEndpoint(op, t.model, env.stream)
	}
	return t.base + op.endpoint(t.model)
}

// readsBoth reports whether the backend of chat completions is known to read
// max_completion_tokens as well as max_tokens. Of the others some read only
// max_tokens, and overlook a limit under the newer name.
func (t *target) readsBoth() bool {
	return t.backend.Translate.MaxCompletionTokens ||
		strings.Contains(t.base, "api.openai.com/") || strings.Contains(t.base, ".openai.azure.com/")
}

// order returns the targets in the order in which a call asks them: those that
// are known not to answer last, those with the lower number of priority first,
// and among equals by chance, each as often as its weight says. random returns
// numbers in [0,1).
func (rt *route) order(now time.Time, random func() float64) []*target {
	if len(rt.targets) == 1 {
		return rt.targets
	}
	type place struct {
		*target
		ready int
		draw  float64
	}
	places := make([]place, len(rt.targets))
	for i, t := range rt.targets {
		// The least of exponential times whose rates are the weights: each wins
		// as often as its weight says, and so does each of those that are left
		// (Efraimidis and Spirakis, 2006).
		places[i] = place{t, t.breaker.ready(now), -math.Log(1-random()) / float64(t.weight)}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.ready, b.ready), cmp.Compare(a.priority, b.priority), cmp.Compare(a.draw, b.draw))
	})
	out := make([]*target, len(places))
	for i, p := range places {
		out[i] = p.target
	}
	return out
}

// maxTargets bounds the targets of one route.
const maxTargets = 16

// maxWeight bounds the weight of a target, so that sums stay small.
const maxWeight = 1_000_000
