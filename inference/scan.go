package inference

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// A scanError says why a body is not accepted, and where.
type scanError struct {
	offset int
	reason string
}

func (e *scanError) Error() string {
	return fmt.Sprintf("the request body is not accepted: %s (byte %d)", e.reason, e.offset)
}

// scan reads the envelope of body into env in one pass and without allocating,
// except for the names of hosted tools. It accepts exactly the JSON objects of
// RFC 8259 in valid UTF-8 whose envelope every parser reads alike.
func scan(op *operation, body []byte, env *envelope) error {
	env.reset()
	if !utf8.Valid(body) {
		return &scanError{0, "it is not valid UTF-8"}
	}
	s := scanner{b: body, env: env, op: op}
	s.space()
	env.open = s.i
	if s.peek() != '{' {
		return &scanError{s.i, "it must be a JSON object"}
	}
	if s.value(atTop, 1) {
		s.space()
		if s.i != len(body) {
			s.fail("there is data after the JSON object")
		}
	}
	if s.err == nil && env.model.empty() && !op.hasPathModel() {
		s.fail("model is missing")
	}
	if s.err != nil {
		return s.err
	}
	return nil
}

// A scanner walks over one body. Its methods return false once err is set.
type scanner struct {
	b   []byte
	i   int
	env *envelope
	op  *operation
	err *scanError

	values int  // that were read
	nested int  // Gemini: how many requests this is within
	image  bool // addresses are those of images
	source tool // the source of a block, when it has ended
}

func (s *scanner) fail(reason string) bool {
	if s.err == nil {
		s.err = &scanError{s.i, reason}
	}
	return false
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// value consumes one value that stands at p.
func (s *scanner) value(p place, depth int) bool {
	if s.values++; s.values > maxValues {
		return s.fail("it holds too many values")
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(p, depth)
	case c == '[':
		return s.array(p, depth)
	case c == '"' && p == inURL:
		return s.mediaURL(true)
	case c == '"':
		_, _, ok := s.str()
		return ok
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return s.fail("a JSON value was expected")
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail("a JSON value was expected")
	}
	s.i += len(word)
	return true
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.i++
	}
	switch c := s.peek(); {
	case c == '0':
		s.i++
	case c >= '1' && c <= '9':
		s.digits()
	default:
		return s.fail("a number is malformed")
	}
	if s.peek() == '.' {
		s.i++
		if !s.digits() {
			return s.fail("a number is malformed")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if !s.digits() {
			return s.fail("a number is malformed")
		}
	}
	return true
}

func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > from
}

// str consumes a string and returns what stands between its quotes, and whether
// that holds escapes.
func (s *scanner) str() (in span, escaped, ok bool) {
	s.i++
	from := s.i
	for {
		s.i += plainLen(s.b[s.i:])
		if s.i >= len(s.b) {
			return span{}, false, s.fail("a string does not end")
		}
		switch s.b[s.i] {
		case '"':
			s.i++
			return span{from, s.i - 1}, escaped, true
		case '\\':
			escaped = true
			if !s.escape() {
				return span{}, false, false
			}
		default:
			return span{}, false, s.fail("a string holds a control character")
		}
	}
}

func (s *scanner) escape() bool {
	rest := s.b[s.i+1:]
	if len(rest) == 0 {
		return s.fail("a string does not end")
	}
	switch rest[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case 'u':
		if len(rest) < 5 {
			return s.fail("an escape is malformed")
		}
		for _, c := range rest[1:5] {
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
				return s.fail("an escape is malformed")
			}
		}
		s.i += 6
		return true
	}
	return s.fail("an escape is malformed")
}

// plainLen returns how many bytes at the start of b need no attention in a
// string: not '"', not '\\', not below 0x20. It looks at eight at a time.
func plainLen(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for len(b)-n >= 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		hit := ((x - ones*0x20) &^ x) | ((quote - ones) &^ quote) | ((slash - ones) &^ slash)
		if hit &= highs; hit != 0 {
			return n + bits.TrailingZeros64(hit)/8
		}
		n += 8
	}
	for n < len(b) && b[n] >= 0x20 && b[n] != '"' && b[n] != '\\' {
		n++
	}
	return n
}

func (s *scanner) array(p place, depth int) bool {
	if depth > maxDepth {
		return s.fail("it is nested too deeply")
	}
	element := elements[p]
	if element == anywhere && p.strict() {
		return s.fail("an object was expected")
	}
	s.i++
	s.space()
	if s.peek() == ']' {
		s.i++
		return true
	}
	for {
		if objectsOnly[p] && s.peek() != '{' {
			return s.fail("tools and messages must be objects")
		}
		if !s.value(element, depth+1) {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			s.space()
		case ']':
			s.i++
			return true
		default:
			return s.fail("',' or ']' was expected")
		}
	}
}

func (s *scanner) object(p place, depth int) bool {
	if depth > maxDepth {
		return s.fail("it is nested too deeply")
	}
	if objectsOnly[p] {
		return s.fail("tools and messages must be arrays")
	}
	if p == inContent {
		p = inBlock // a lone block
	}
	if p.strict() {
		return s.strictObject(p, depth)
	}
	s.i++
	s.space()
	if s.peek() == '}' {
		s.i++
		return true
	}
	for {
		if s.peek() != '"' {
			return s.fail("a key was expected")
		}
		if _, _, ok := s.str(); !ok || !s.colon() || !s.value(anywhere, depth+1) {
			return false
		}
		if done, ok := s.next(); done || !ok {
			return ok
		}
	}
}

// colon consumes what stands between a key and its value.
func (s *scanner) colon() bool {
	s.space()
	if s.peek() != ':' {
		return s.fail("':' was expected")
	}
	s.i++
	s.space()
	return true
}

// next consumes what follows a member, and says whether the object has ended.
func (s *scanner) next() (done, ok bool) {
	s.space()
	switch s.peek() {
	case ',':
		s.i++
		s.space()
		return false, true
	case '}':
		s.i++
		return true, true
	}
	return false, s.fail("',' or '}' was expected")
}

// strictObject consumes an object whose keys matter.
func (s *scanner) strictObject(p place, depth int) bool {
	var (
		seen    [maxKeys]uint64 // hashes of folded keys: a collision refuses
		count   int
		members tool
	)
	s.i++
	s.space()
	if s.peek() == '}' {
		s.i++
		return s.end(p, &members, true)
	}
	for {
		if s.peek() != '"' {
			return s.fail("a key was expected")
		}
		at := s.i
		key, escaped, ok := s.str()
		if !ok {
			return false
		}
		f, hash, reason := s.lookup(p, key, escaped)
		for _, h := range seen[:count] {
			if h == hash {
				reason = "a key appears twice, or in two spellings"
			}
		}
		if count == maxKeys {
			reason = "an object has too many keys"
		}
		if reason != "" {
			s.i = at
			return s.fail(reason)
		}
		seen[count] = hash
		count++
		if !s.colon() || !s.member(p, f, key, depth, &members) {
			return false
		}
		if done, ok := s.next(); !ok {
			return false
		} else if done {
			return s.end(p, &members, false)
		}
	}
}

// lookup finds out which field a key is, and refuses keys that two parsers
// could read differently.
func (s *scanner) lookup(p place, key span, escaped bool) (f field, hash uint64, reason string) {
	if escaped {
		return 0, 0, "a key is written with escapes"
	}
	var folded [64]byte
	raw, n := key.of(s.b), 0
	hash = 14695981039346656037 // FNV-1a
	for _, c := range raw {
		switch {
		case c < 0x20 || c > 0x7e:
			return 0, 0, "a key holds other than printable ASCII"
		case c == '_' || c == '-':
			continue
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		}
		hash = (hash ^ uint64(c)) * 1099511628211
		if n < len(folded) {
			folded[n] = c
		}
		n++
	}
	if n > len(folded) {
		return fUnknown, hash, ""
	}
	e, ok := s.table(p)[string(folded[:n])]
	if !ok {
		return fUnknown, hash, ""
	}
	if string(raw) != e.key && string(raw) != e.also {
		return 0, 0, "a key is a misspelling of one that matters"
	}
	return e.field, hash, ""
}

func (s *scanner) table(p place) table {
	switch {
	case p == atTop || p == inAsk:
		return s.op.fields
	case p == inTool && s.op.protocol == Gemini:
		return geminiTool
	}
	return inner[p]
}
