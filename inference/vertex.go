package inference

import "net/url"

// Anthropic's models on Google's Vertex AI take messages with the model in the
// path, and a version in its place in the body. The answers are Anthropic's.

const vertexVersion = `"anthropic_version":"vertex-2023-10-16"`

func vertexEndpoint(op *operation, model string, stream bool) string {
	switch {
	case op == opCountMessages:
		return "/models/count-tokens:rawPredict" // the model stays in the body
	case stream:
		return "/models/" + url.PathEscape(model) + ":streamRawPredict"
	}
	return "/models/" + url.PathEscape(model) + ":rawPredict"
}

// forVertex is what is changed in a body besides its model's name.
func forVertex(op *operation, body []byte, env *envelope) edit {
	if op == opCountMessages {
		at := env.open + 1
		return edit{span{at, at}, vertexVersion + ","}
	}
	// In the strict scan's place is exactly "model", white space and a colon
	// before the value, whose quotes are not a part of the span.
	lo, hi := env.model.lo-1, env.model.hi+1
	for lo--; body[lo] != ':'; lo-- {
	}
	for lo--; body[lo] != '"'; lo-- {
	}
	lo -= len(`"model`)
	return edit{span{lo, hi}, vertexVersion}
}
