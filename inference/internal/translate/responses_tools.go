package translate

import (
	"fmt"
	"slices"
)

// responseTools translates the definitions of the client's own tools.
func (t *request) responseTools(list value) {
	if !t.list(list) {
		return
	}
	o := &t.out
	o.key("tools")
	o.open("[")
	empty := len(o.b)
	flat := map[string]bool{}
	for tool := range list.all() {
		if t.err != nil || !t.object(tool) {
			return
		}
		switch typ := tool.take("type"); {
		case typ.is("function"):
			f := t.responseFunction(tool)
			flat[unquoted(f.name)] = true
			t.function(f)
		case typ.is("custom"):
			flat[tool.member("name").string()] = true
			t.customTool(tool)
		case typ.is("namespace"):
			t.namespaceTools(tool)
		default:
			t.ignored(tool, featHosted, fmt.Sprintf("a tool of type %q is run by its provider only", clip(typ.string())))
			continue // what is in it goes with it
		}
		t.done(tool)
	}
	for chat := range t.x.spaces {
		if flat[chat] {
			t.fail(list, fmt.Sprintf("the backend cannot tell two tools named %q apart", clip(chat)))
		}
	}
	if len(o.b) == empty {
		o.b = nil
		return
	}
	o.raw("]")
}

// responseFunction takes a function's fields; its type is taken.
func (t *request) responseFunction(tool value) function {
	f := function{name: t.label(tool, "name"), description: t.text(tool.take("description")), strict: tool.take("strict")}
	if schema := tool.take("parameters"); t.object(schema) {
		f.schema = schema.raw()
	}
	if v := tool.take("defer_loading"); t.flag(v) {
		t.fail(v, "the backend cannot search for tools")
	}
	return f
}

// namespaceTools writes the functions of a namespace under joined names. What
// describes the namespace is put before the description of each.
func (t *request) namespaceTools(tool value) {
	space := t.label(tool, "name")
	about := t.text(tool.take("description"))
	list := tool.take("tools")
	if !t.list(list) || t.err != nil {
		t.fail(tool, `"tools" is missing`)
		return
	}
	for fn := range list.all() {
		if t.err != nil || !t.object(fn) {
			return
		}
		if !fn.take("type").is("function") {
			t.fail(fn, "only functions can be in a namespace for the backend")
		}
		f := t.responseFunction(fn)
		t.done(fn)
		if t.err != nil || t.out.full {
			return
		}
		f.name = t.inNamespace(fn, unquote(space), unquote(f.name))
		switch {
		case f.description == nil:
			f.description = about
		case about != nil:
			f.description = slices.Concat(about[:len(about)-1], []byte(`\n\n`), f.description[1:])
		}
		t.function(f)
	}
}

// customTool writes a tool that takes plain text.
func (t *request) customTool(tool value) {
	o := &t.out
	o.next()
	o.raw(`{"type":"custom","custom":{"name":`)
	o.bytes(t.label(tool, "name"))
	if d := t.text(tool.take("description")); d != nil {
		o.field("description", d)
	}
	if v := tool.take("defer_loading"); t.flag(v) {
		t.fail(v, "the backend cannot search for tools")
	}
	if format := tool.take("format"); t.object(format) {
		switch typ := format.take("type"); {
		case typ.is("text"):
			o.literal("format", `{"type":"text"}`)
		case typ.is("grammar"):
			o.key("format")
			o.raw(`{"type":"grammar","grammar":{"syntax":`)
			o.bytes(t.need(format, "syntax"))
			o.field("definition", t.need(format, "definition"))
			o.raw("}}")
		default:
			t.fail(format, "the backend knows no such format")
		}
		t.done(format)
	}
	o.raw("}}")
}

func (t *request) responseToolChoice(v value) {
	if !v.ok() {
		return
	}
	o := &t.out
	if v.is("auto") || v.is("none") || v.is("required") {
		if !v.is("auto") {
			o.field("tool_choice", v.raw())
		}
		return
	}
	if !t.object(v) {
		return
	}
	switch typ := v.take("type"); {
	case typ.is("function"), typ.is("custom"):
		o.key("tool_choice")
		o.raw(`{"type":` + string(typ.raw()) + `,` + string(typ.raw()) + `:{"name":`)
		o.bytes(t.chatName(v))
		o.raw("}}")
	default:
		t.fail(v, "the backend knows no such choice")
	}
	t.done(v)
}
