package translate

import (
	"bytes"
	"errors"
	"iter"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a document, far above what agents send.
const (
	maxText  = 1 << 30
	maxDepth = 200
	maxNodes = 1 << 20 // of 32 bytes each
)

// A doc is a parsed JSON text: a flat tree whose nodes point into the text, so
// that every value can be copied as it was written. It is reused.
type doc struct {
	text  []byte
	nodes []node
	dec   *jsontext.Decoder
	buf   bytes.Buffer
}

// A node is one value. Its children, if any, follow it in the slice.
type node struct {
	kind   byte // of jsontext.Kind: n f t " 0 { [
	taken  bool
	key    span
	at     span
	parent int32
	child  int32 // first, 0: none
	next   int32 // sibling, 0: none
}

type span struct{ lo, hi int32 }

// parse reads one JSON value in valid UTF-8 without repeated keys. The text
// must not change afterwards.
func (d *doc) parse(text []byte) error {
	if len(text) > maxText {
		return &Error{Reason: "it is too large"}
	}
	d.text, d.nodes = text, d.nodes[:0]
	d.buf = *bytes.NewBuffer(text)
	if d.dec == nil {
		d.dec = jsontext.NewDecoder(&d.buf)
	} else {
		d.dec.Reset(&d.buf)
	}
	d.nodes = append(d.nodes, node{}) // no node has the number 0
	if _, err := d.read(0, 0); err != nil {
		return d.malformed(err)
	}
	if rest := bytes.TrimLeft(text[d.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return &Error{Reason: "there is data after the JSON value"}
	}
	return nil
}

var (
	errDeep = errors.New("it is nested too deeply")
	errMany = errors.New("it has too many values")
)

func (d *doc) malformed(err error) error {
	if errors.Is(err, errDeep) || errors.Is(err, errMany) {
		return &Error{Reason: err.Error()}
	}
	e := &Error{Reason: "it is not valid JSON"}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		e.Reason = "a key appears twice"
	}
	return e
}

// read adds the next value and all that is in it.
func (d *doc) read(parent int32, depth int) (int32, error) {
	if depth > maxDepth {
		return 0, errDeep
	}
	if len(d.nodes) >= maxNodes {
		return 0, errMany
	}
	self := int32(len(d.nodes))
	kind := d.dec.PeekKind()
	if kind != '{' && kind != '[' {
		v, err := d.dec.ReadValue()
		if err != nil {
			return 0, err
		}
		d.nodes = append(d.nodes, node{kind: byte(kind), parent: parent, at: d.just(v)})
		return self, nil
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return 0, err
	}
	d.nodes = append(d.nodes, node{kind: byte(kind), parent: parent, at: span{lo: int32(d.dec.InputOffset()) - 1}})
	var last int32
	for k := d.dec.PeekKind(); k != '}' && k != ']'; k = d.dec.PeekKind() {
		var key span
		if kind == '{' {
			v, err := d.dec.ReadValue()
			if err != nil {
				return 0, err
			}
			key = d.just(v)
		}
		n, err := d.read(self, depth+1)
		if err != nil {
			return 0, err
		}
		d.nodes[n].key = key
		if last == 0 {
			d.nodes[self].child = n
		} else {
			d.nodes[last].next = n
		}
		last = n
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return 0, err
	}
	d.nodes[self].at.hi = int32(d.dec.InputOffset())
	return self, nil
}

// just returns where the value stands that was just read.
func (d *doc) just(v jsontext.Value) span {
	hi := int32(d.dec.InputOffset())
	return span{hi - int32(len(v)), hi}
}

func (d *doc) root() value { return value{d, 1} }

// A value is a node of a document. The zero value is absent.
type value struct {
	d *doc
	n int32
}

func (v value) node() *node { return &v.d.nodes[v.n] }
func (v value) ok() bool    { return v.n != 0 }

// kind returns n, f, t, ", 0, { or [, and 0 for what is absent.
func (v value) kind() byte {
	if !v.ok() {
		return 0
	}
	return v.node().kind
}

// raw returns the value as it is written.
func (v value) raw() []byte {
	if !v.ok() {
		return nil
	}
	at := v.node().at
	return v.d.text[at.lo:at.hi]
}

// member returns a member of an object.
func (v value) member(name string) value {
	if v.kind() != '{' {
		return value{}
	}
	for n := v.node().child; n != 0; n = v.d.nodes[n].next {
		key := v.d.nodes[n].key
		if quotedIs(v.d.text[key.lo:key.hi], name) {
			return value{v.d, n}
		}
	}
	return value{}
}

// take returns a member and marks it as dealt with. Null is absent.
func (v value) take(name string) value {
	m := v.member(name)
	if !m.ok() {
		return value{}
	}
	m.node().taken = true
	if m.kind() == 'n' {
		return value{}
	}
	return m
}

// all yields the elements of an array or the members of an object.
func (v value) all() iter.Seq[value] {
	return func(yield func(value) bool) {
		if !v.ok() {
			return
		}
		for n := v.node().child; n != 0; n = v.d.nodes[n].next {
			if !yield(value{v.d, n}) {
				return
			}
		}
	}
}

// untaken yields the members that nobody took.
func (v value) untaken() iter.Seq[value] {
	return func(yield func(value) bool) {
		for m := range v.all() {
			if !m.node().taken && !yield(m) {
				return
			}
		}
	}
}

func (v value) leftover() (value, bool) {
	for m := range v.untaken() {
		return m, true
	}
	return value{}, false
}

func (v value) empty() bool { return !v.ok() || v.node().child == 0 }

// is reports whether the value is this string.
func (v value) is(s string) bool { return v.kind() == '"' && quotedIs(v.raw(), s) }

// string returns the decoded string, and "" for anything else.
func (v value) string() string {
	if v.kind() != '"' {
		return ""
	}
	return unquote(v.raw())
}

// name returns the key under which a member stands.
func (v value) name() string {
	key := v.node().key
	return unquote(v.d.text[key.lo:key.hi])
}

// path says where the value stands, such as "messages[2].content".
func (v value) path() string {
	if !v.ok() {
		return ""
	}
	n := v.node()
	if n.parent == 0 {
		return ""
	}
	up := value{v.d, n.parent}
	if up.kind() == '[' {
		i := 0
		for e := range up.all() {
			if e.n == v.n {
				break
			}
			i++
		}
		return up.path() + "[" + strconv.Itoa(i) + "]"
	}
	name := v.name()
	if len(name) > 80 {
		name = name[:80] + "…"
	}
	if p := up.path(); p != "" {
		return p + "." + name
	}
	return name
}

// quotedIs reports whether a JSON string says s.
func quotedIs(quoted []byte, s string) bool {
	in := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in) == s
	}
	return unquote(quoted) == s
}

// unquote decodes a valid JSON string.
func unquote(quoted []byte) string {
	in := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in)
	}
	s, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return ""
	}
	return string(s)
}

// An out is JSON text in the making. It sets the commas.
type out struct {
	b    []byte
	max  int  // bytes; 0: no limit
	full bool // something was left out because of max
}

// room reports whether n more bytes may be written. After the first that may
// not, none may: what would be left is no text.
func (o *out) room(n int) bool {
	o.full = o.full || o.max > 0 && len(o.b)+n > o.max
	return !o.full
}

func (o *out) raw(s string) {
	if o.room(len(s)) {
		o.b = append(o.b, s...)
	}
}

func (o *out) bytes(b []byte) {
	if o.room(len(b)) {
		o.b = append(o.b, b...)
	}
}

func (o *out) integer(n int64)     { o.b = strconv.AppendInt(o.b, n, 10) }
func (o *out) open(bracket string) { o.raw(bracket) }

// next sets a comma unless something was just opened.
func (o *out) next() {
	if n := len(o.b); n > 0 && o.b[n-1] != '{' && o.b[n-1] != '[' && o.b[n-1] != ':' {
		o.raw(",")
	}
}

// key starts a member; name needs no escapes.
func (o *out) key(name string) {
	o.next()
	o.raw(`"`)
	o.raw(name)
	o.raw(`":`)
}

func (o *out) field(name string, raw []byte) { o.key(name); o.bytes(raw) }
func (o *out) word(name, s string)           { o.key(name); o.quote(s) }
func (o *out) count(name string, n int64)    { o.key(name); o.integer(n) }
func (o *out) literal(name, text string)     { o.key(name); o.raw(text) }

// quote writes any valid UTF-8 as a JSON string.
func (o *out) quote(s string) {
	if !o.room(len(s)) {
		return
	}
	b, err := jsontext.AppendQuote(o.b, s)
	if err != nil { // invalid UTF-8 was replaced
		b = append(b[:len(o.b)], `""`...)
	}
	o.b = b
}
