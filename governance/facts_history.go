package governance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A History is what policies are told about earlier acts.
type History struct {
	// Facts are those that policies for the action read, by name: int64, bool or
	// time.Time as the kind of the fact says; nil for a [Last] without any.
	Facts map[string]any `json:"facts,omitempty"`
	// Labels are those of the session, sorted.
	Labels []string `json:"labels,omitempty"`
}

// UnmarshalJSON reads whole numbers, booleans, times in RFC 3339, and null. An
// unknown or repeated member is an error.
func (h *History) UnmarshalJSON(text []byte) error {
	var raw struct {
		Facts  map[string]jsontext.Value `json:"facts"`
		Labels []string                  `json:"labels"`
	}
	if err := jsonv2.Unmarshal(text, &raw, jsonv2.RejectUnknownMembers(true)); err != nil {
		return err
	}
	*h = History{Labels: raw.Labels}
	for name, v := range raw.Facts {
		var n int64
		var b bool
		var t time.Time
		if h.Facts == nil {
			h.Facts = map[string]any{}
		}
		switch {
		case string(v) == "null":
			h.Facts[name] = nil
		case json.Unmarshal(v, &b) == nil:
			h.Facts[name] = b
		case json.Unmarshal(v, &n) == nil:
			h.Facts[name] = n
		case json.Unmarshal(v, &t) == nil:
			h.Facts[name] = t
		default:
			return fmt.Errorf("governance: history: fact %q is no whole number, boolean, time or null", name)
		}
	}
	return nil
}

var errNoHistory = errors.New("policies ask about earlier acts: decide by an Engine, or fill in Request.History")

// A look is what one decision saw of history, and what it adds to it when it
// allows.
type look struct {
	plan    *actionFacts
	at      time.Time
	context types.RecordMap // read for what the act adds
	facts   types.RecordMap
	labels  []string
	keys    []*keyed // of plan.keys, as far as they were needed
}

// History returns what the decision was told about earlier acts, for deciding
// the same request again: see [Request].History. It is nil when policies for
// the action ask for nothing.
func (d Decision) History() *History {
	if d.look == nil || !d.look.plan.asks() {
		return nil
	}
	h := &History{Labels: slices.Clone(d.look.labels)}
	for _, r := range d.look.plan.reads {
		if h.Facts == nil {
			h.Facts = map[string]any{}
		}
		switch v := d.look.facts[r.name].(type) {
		case types.Long:
			h.Facts[r.def.name] = int64(v)
		case types.Boolean:
			h.Facts[r.def.name] = bool(v)
		case types.Datetime:
			h.Facts[r.def.name] = v.Time().UTC()
		default:
			h.Facts[r.def.name] = nil
		}
	}
	return h
}

// look puts into the context what policies for t ask about history: what the
// request brings along, or else what the engine knows.
func (s *Snapshot) look(r *Request, t *target, context types.RecordMap, now time.Time, of *reads) (*look, error) {
	plan := s.facts[t.action]
	if of == nil || of.labels {
		context["labels"] = types.Set{}
	}
	if plan == nil || !plan.asks() && !plan.feeds() {
		return nil, nil
	}
	l := &look{plan: plan, at: now, context: context}
	var err error
	switch {
	case r.History != nil:
		err = l.given(r.History)
	case r.past != nil:
		err = r.past.view(l)
	case plan.asks():
		err = errNoHistory
	}
	if err != nil {
		return nil, err
	}
	if l.facts != nil {
		context["facts"] = types.NewRecord(l.facts)
	}
	return l, nil
}

// given takes a history from outside.
func (l *look) given(h *History) error {
	if len(l.plan.reads) > 0 {
		l.facts = make(types.RecordMap, len(l.plan.reads))
	}
	for _, r := range l.plan.reads {
		v, ok := h.Facts[r.def.name]
		if !ok {
			return fmt.Errorf("the history says nothing about the fact %q", r.def.name)
		}
		val, fits := types.Value(nil), r.def.kind == Last && v == nil
		switch v := v.(type) {
		case int:
			val, fits = types.Long(v), factKinds[r.def.kind] == "Long"
		case int64:
			val, fits = types.Long(v), factKinds[r.def.kind] == "Long"
		case bool:
			val, fits = types.Boolean(v), factKinds[r.def.kind] == "Bool"
		case time.Time:
			val, fits = types.NewDatetime(v), r.def.kind == Last
		}
		if !fits {
			return fmt.Errorf("the fact %q is a %s; the history says %v", r.def.name, factKinds[r.def.kind], v)
		}
		if val != nil {
			l.facts[r.name] = val
		}
	}
	if len(h.Labels) > maxSessionLabels {
		return fmt.Errorf("more than %d labels", maxSessionLabels)
	}
	l.labels = slices.Sorted(maps.Keys(setOf(h.Labels)))
	l.context["labels"] = labelSet(l.labels)
	return nil
}

func setOf(list []string) map[string]bool {
	out := make(map[string]bool, len(list))
	for _, s := range list {
		out[s] = true
	}
	return out
}

func labelSet(labels []string) types.Set {
	vals := make([]types.Value, len(labels))
	for i, l := range labels {
		vals[i] = types.String(l)
	}
	return types.NewSet(vals...)
}

// valueAt finds an argument, or an attribute of an action that is no tool.
func (l *look) valueAt(path []string) (types.Value, bool) {
	var v types.Value
	args, ok := l.context["args"].(types.Record)
	if !ok {
		v, ok = l.context[types.String(path[0])]
		return v, ok
	}
	v = args
	for _, name := range path {
		rec, isRec := v.(types.Record)
		if !isRec {
			return nil, false
		}
		if v, ok = rec.Get(types.String(name)); !ok {
			return nil, false
		}
	}
	return v, true
}

// matches reports whether all conditions hold.
func (l *look) matches(where []condition) bool {
	for _, c := range where {
		v, ok := l.valueAt(c.path)
		if !ok || !slices.ContainsFunc(c.any, v.Equal) {
			return false
		}
	}
	return true
}
