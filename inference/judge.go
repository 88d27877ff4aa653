package inference

import "bytes"

// host notes that the provider is asked to act.
func (s *scanner) host(name string) bool {
	if s.env.hasHosted(name) {
		return true
	}
	if len(s.env.hosted) == maxHosted {
		return s.fail("it asks for too many provider-side tools")
	}
	s.env.hosted = append(s.env.hosted, name)
	return true
}

// stranger notes content of a type that is not known. It may be of any size.
func (s *scanner) stranger(name string) bool {
	s.env.boundless = true
	return s.host(name)
}

// tool collects the members of a strict object that are judged together.
type tool struct {
	typ, name   span
	odd         span // the last key that no function has
	odds        int
	hasFunction bool
	hasRole     bool
	hasID       bool
	hasContent  bool
	mime, data  span
	source      media
}

// end judges an object when all its members are known.
func (s *scanner) end(p place, m *tool, empty bool) bool {
	switch p {
	case atTop:
		s.env.bare = empty
	case inConfig:
		s.env.confBare = empty
	case inStreamOptions:
		s.env.optsEmpty = empty
	case inFunction:
		return s.clientTool(m.name)
	case inInline:
		s.inlineMedia(m)
	case inSource:
		s.source = *m
		s.source.source = s.sourceMedia(m)
		switch typ := m.typ.of(s.b); string(typ) {
		case "base64", "text", "content":
		case "url":
			return s.host(hostedURL)
		case "file":
			return s.host(hostedFile)
		default:
			return s.stranger("source:" + string(typ))
		}
	case inBlock:
		s.blockMedia(m)
		if typ := m.typ.of(s.b); !knownBlock(s.op.protocol, typ) {
			return s.stranger("block:" + string(typ))
		}
	case inItem:
		return s.item(m)
	case inTool:
		if s.op.protocol == Gemini {
			return true
		}
		if typ := m.typ.of(s.b); string(typ) != "function" && string(typ) != "custom" || s.op.protocol == Anthropic {
			if name, hosted := hostedTool(s.op.protocol, string(typ), m.hasFunction); hosted {
				return s.host(name)
			}
		}
		if m.odds > 1 {
			return s.fail("a function has more than one unknown field")
		}
		if m.odds == 1 && !s.host("field:tools."+string(m.odd.of(s.b))) {
			return false
		}
		if !m.hasFunction {
			return s.clientTool(m.name)
		}
	}
	return true
}

// item judges an item of the input of responses. Items may stand for others
// that the provider has stored.
func (s *scanner) item(m *tool) bool {
	typ := m.typ.of(s.b)
	switch {
	case len(typ) == 0 && m.hasRole:
	case len(typ) == 0, string(typ) == "item_reference", string(typ) == "reasoning" && m.hasID && !m.hasContent:
		s.env.stored = "an item by its id"
	case !responsesItems[string(typ)]:
		return s.stranger("item:" + string(typ))
	}
	return true
}

func (s *scanner) clientTool(name span) bool {
	if len(s.env.tools) == maxTools {
		return s.fail("it has too many tools")
	}
	if !name.empty() {
		s.env.tools = append(s.env.tools, name)
	}
	return true
}

// within reports whether the value of the span starts with prefix.
func (s *scanner) within(v span, prefix string) bool {
	return bytes.HasPrefix(v.of(s.b), []byte(prefix))
}
