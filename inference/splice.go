package inference

import (
	"slices"
	"strconv"
)

// An edit replaces the bytes of a span; an empty span is an insertion.
type edit struct {
	at   span
	text string
}

// editsOf returns what is changed in a body on its way to the backend, in order, and
// whether the stream's usage chunk was asked for by this door and must be taken out
// again. edits are further ones, which do not touch those.
func editsOf(op *operation, body []byte, env *envelope, model string, edits ...edit) (all []edit, dropUsage bool) {
	name := func(at span) {
		if !at.empty() && string(at.of(body)) != model {
			quoted := strconv.Quote(model) // config allows printable ASCII only
			edits = append(edits, edit{at, quoted[1 : len(quoted)-1]})
		}
	}
	if env.form != vertexForm || op != opMessages { // else it goes away
		name(env.model)
	}
	for _, ref := range env.refs {
		name(ref)
	}
	if op == opChat && env.stream && !env.wantsUsage {
		edits = append(edits, askForUsage(body, env))
		dropUsage = true
	}
	if op == opResponses && !env.stores {
		if e, needed := storeNothing(body, env); needed {
			edits = append(edits, e)
		}
	}
	if env.form == vertexForm {
		edits = append(edits, forVertex(op, body, env))
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return a.at.lo - b.at.lo })
	return edits, dropUsage
}

// splicedLen is how long a body is with its edits.
func splicedLen(body []byte, edits []edit) int {
	n := len(body)
	for _, e := range edits {
		n += len(e.text) - (e.at.hi - e.at.lo)
	}
	return n
}

// splice returns a copy of the body with its edits. The bytes that are not edited
// are the client's.
func splice(body []byte, edits []edit) []byte {
	out := make([]byte, 0, splicedLen(body, edits))
	from := 0
	for _, e := range edits {
		out = append(append(out, body[from:e.at.lo]...), e.text...)
		from = e.at.hi
	}
	return append(out, body[from:]...)
}

// askForUsage sets stream_options.include_usage, wherever it is or is not.
func askForUsage(body []byte, env *envelope) edit {
	switch {
	case !env.includeUsage.empty():
		return edit{env.includeUsage, "true"}
	case env.streamOpts.empty():
		at := env.open + 1
		return edit{span{at, at}, `"stream_options":{"include_usage":true},`}
	case body[env.streamOpts.lo] != '{' || env.optsEmpty:
		return edit{env.streamOpts, `{"include_usage":true}`}
	}
	at := env.streamOpts.lo + 1
	return edit{span{at, at}, `"include_usage":true,`}
}

// storeNothing says so where a response's request does not: OpenAI stores
// answers unless it is told not to.
func storeNothing(body []byte, env *envelope) (e edit, needed bool) {
	switch {
	case env.store.empty():
		at := env.open + 1
		return edit{span{at, at}, `"store":false,`}, true
	case body[env.store.lo] == 'n':
		return edit{env.store, "false"}, true
	}
	return edit{}, false
}
