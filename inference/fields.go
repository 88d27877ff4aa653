package inference

import "bytes"

// member consumes the value of field f of an object at p.
func (s *scanner) member(p place, f field, key span, depth int, m *tool) bool {
	switch f {
	case fListed:
		before := s.values
		if !s.value(anywhere, depth+1) {
			return false
		}
		return s.values-before <= maxListed || s.fail("a field for a few words has too many")
	case fModel:
		return s.modelName()
	case fStream:
		return s.flag(&s.env.stream, nil)
	case fIncludeUsage:
		return s.flag(&s.env.wantsUsage, &s.env.includeUsage)
	case fMaxTokens:
		if s.nested > 0 { // it is not that of the answer
			return s.value(anywhere, depth+1)
		}
		from, which := s.i, 0
		if string(key.of(s.b)) == "max_completion_tokens" {
			which = 1
		}
		ok := s.limit(&s.env.maxOutput)
		s.env.limits[which] = span{from, s.i}
		return ok
	case fChoices:
		at := s.i
		if !s.limit(&s.env.choices) {
			return false
		}
		if s.env.choices > maxChoices {
			s.i = at
			return s.fail("it asks for too many answers")
		}
		return true
	case fStreamOptions:
		from := s.i
		if c := s.peek(); c != '{' && c != 'n' {
			return s.fail("stream_options must be an object")
		}
		ok := s.value(inStreamOptions, depth+1)
		s.env.streamOpts = span{from, s.i}
		return ok
	case fTools:
		return s.listOf(inTools, depth)
	case fFunctions:
		return s.listOf(inFunctions, depth)
	case fMessages:
		return s.listOf(inMessages, depth)
	case fContent:
		from := s.i
		ok := s.value(inContent, depth+1)
		m.hasContent = m.hasContent || ok && !empty(s.b[from:s.i])
		return ok
	case fStore:
		return s.flag(&s.env.stores, &s.env.store) && (!s.env.stores || s.host(hostedSave))
	case fStored:
		return s.unless(key, depth)
	case fBackground:
		asked := false
		if !s.flag(&asked, nil) {
			return false
		}
		if asked {
			s.env.stored = string(key.of(s.b)) // the answer is to be fetched later, by its id
		}
		return true
	case fInput:
		if c := s.peek(); c == '{' {
			return s.fail("input must be a string or an array")
		}
		return s.value(inInput, depth+1)
	case fRole:
		m.hasRole = true
	case fID:
		m.hasID = s.peek() != 'n'
	case fEncrypted:
		m.hasContent = m.hasContent || s.peek() == '"' && s.i+1 < len(s.b) && s.b[s.i+1] != '"'
	case fHosted:
		return s.unlessEmpty(hostedByField(string(key.of(s.b))), depth)
	case fPriced:
		from := s.i
		if !s.value(anywhere, depth+1) {
			return false
		}
		return ordinary(s.b[from:s.i]) || s.host("field:"+string(key.of(s.b)))
	case fFunction:
		m.hasFunction = true
		if s.peek() != '{' {
			return s.fail("a tool's function must be an object")
		}
		return s.value(inFunction, depth+1)
	case fType:
		return s.word(&m.typ)
	case fName:
		return s.word(&m.name)
	case fSource:
		s.source = tool{}
		ok := s.value(inSource, depth+1) // a string is a label, as in search results
		m.source, m.mime, m.data = s.source.source, s.source.mime, s.source.data
		return ok
	case fMime:
		return s.text(&m.mime)
	case fData:
		return s.text(&m.data)
	case fMedia:
		from := s.i
		ok := s.value(anywhere, depth+1)
		s.env.boundless = s.env.boundless || ok && !empty(s.b[from:s.i])
		return ok
	case fInline:
		return s.objectOf(inInline, depth)
	case fCompact:
		from := s.i
		ok := s.value(anywhere, depth+1)
		s.env.compacts = ok && !nothing(s.b[from:s.i]) && (bytes.Contains(s.b[from:s.i], []byte("compact")) || odd(s.b[from:s.i]))
		return ok
	case fMediaURL:
		return s.address(key, depth)
	case fURL:
		return s.mediaURL(p != inSource)
	case fFile:
		return s.value(inFile, depth+1)
	case fFileID:
		from := s.i
		ok := s.unlessEmpty(hostedFile, depth)
		s.env.boundless = s.env.boundless || ok && p != inSource && !nothing(s.b[from:s.i])
		return ok
	case fFileData:
		return s.fileData()
	case fRef:
		return s.modelRef()
	case fTurns:
		return s.listOf(inTurns, depth)
	case fTurn:
		return s.objectOf(inTurn, depth)
	case fParts:
		return s.listOf(inParts, depth)
	case fInlineFile:
		return s.objectOf(inFileData, depth)
	case fURI:
		return s.fileURI()
	case fResult:
		return s.objectOf(inResult, depth)
	case fConfig:
		from := s.i
		ok := s.objectOf(inConfig, depth)
		if p == atTop {
			s.env.config = span{from, s.i}
		}
		return ok
	case fAsks, fAsk:
		from := s.i
		s.nested++
		ok := f == fAsks && s.listOf(inAsks, depth) || f == fAsk && s.objectOf(inAsk, depth)
		s.nested--
		if ok && s.op.action == actInvoke && !nothing(s.b[from:s.i]) {
			return s.host("field:" + string(key.of(s.b))) // it has no requests within it
		}
		return ok
	case fUnknown:
		return s.unknown(p, key, depth, m)
	}
	return s.value(anywhere, depth+1)
}

// unknown consumes a member that no table knows.
func (s *scanner) unknown(p place, key span, depth int, m *tool) bool {
	name := key.of(s.b)
	if len(name) > 64 && (p == atTop || p == inAsk || p == inTool || p == inPart) {
		return s.fail("a field has too long a name")
	}
	switch {
	case p == atTop || p == inAsk:
		return s.unlessEmpty("field:"+string(name), depth)
	case (p == inBlock || p == inItem) && s.isAddress(name):
		return s.address(key, depth)
	case p == inTool && s.op.protocol == Gemini:
		// "googleSearch": {} is a tool with nothing to say about it.
		return (s.peek() == 'n' || s.host(snake(string(name)))) && s.value(anywhere, depth+1)
	case p == inPart:
		from := s.i
		ok := s.unlessEmpty("part:"+snake(string(name)), depth)
		s.env.boundless = s.env.boundless || ok && !nothing(s.b[from:s.i])
		return ok
	case p == inTool && s.op.protocol.isOpenAI() && s.peek() != 'n' && s.peek() != 'f':
		// Gateways to other providers take "google_search":{} beside a function
		// for a tool of its own.
		m.odd = key
		m.odds++
	}
	return s.value(anywhere, depth+1)
}

// address consumes the address of something, or an object or a list that has it.
// What lies under a name that says so is an image.
func (s *scanner) address(key span, depth int) bool {
	before, name := s.image, string(key.of(s.b))
	s.image = name == "image_url" || name == "image"
	ok := s.value(inURL, depth+1)
	s.image = before
	return ok
}

// isAddress reports whether the name of a member of a content block says that its
// value is the address of something. In Anthropic's blocks a plain "url" says
// where a search result was found.
func (s *scanner) isAddress(name []byte) bool {
	n := len(name) - len("url")
	return (n > 0 || n == 0 && s.op.protocol.isOpenAI()) && bytes.EqualFold(name[n:], []byte("url"))
}

func (s *scanner) listOf(p place, depth int) bool {
	if c := s.peek(); c != '[' && c != 'n' {
		return s.fail("tools and messages must be arrays")
	}
	return s.value(p, depth+1)
}

func (s *scanner) objectOf(p place, depth int) bool {
	if c := s.peek(); c != '{' && c != 'n' {
		return s.fail("an object was expected")
	}
	return s.value(p, depth+1)
}

// modelRef consumes the name of a model that the path names as well.
func (s *scanner) modelRef() bool {
	if s.peek() == 'n' {
		return s.literal("null")
	}
	model := s.env.model
	if !s.modelName() {
		return false
	}
	ref := s.env.model
	s.env.model = model
	if s.within(ref, modelsPrefix) {
		ref.lo += len(modelsPrefix)
	}
	if len(s.env.refs) == maxKeys || ref.empty() {
		return s.fail("it names too many models, or none")
	}
	s.env.refs = append(s.env.refs, ref)
	return true
}

// modelsPrefix stands before a model's name in Gemini's bodies.
const modelsPrefix = "models/"

// unless consumes a value and notes its key as a reference to a stored object
// unless the value is null, false, [] or {}.
func (s *scanner) unless(key span, depth int) bool {
	from := s.i
	if !s.value(anywhere, depth+1) {
		return false
	}
	if !nothing(s.b[from:s.i]) {
		s.env.stored = string(key.of(s.b))
	}
	return true
}

// nothing reports whether a value is null, false, [] or {}.
func nothing(v []byte) bool {
	switch v[0] {
	case 'n', 'f':
		return true
	case '[', '{':
		return len(bytes.TrimSpace(v[1:len(v)-1])) == 0
	}
	return false
}

// ordinary reports whether a value asks for nothing beyond the price that the
// host knows: no faster tier, other place or other form of the answer.
func ordinary(v []byte) bool {
	switch string(v) {
	case `"auto"`, `"default"`, `"flex"`, `"standard"`, `"standard_only"`:
		return true
	}
	return nothing(v) || v[0] == '[' && string(bytes.TrimSpace(v[1:len(v)-1])) == `"text"`
}

// empty is nothing, or the empty string.
func empty(v []byte) bool { return nothing(v) || len(v) == len(`""`) && v[0] == '"' }

// fileURI consumes the address of a file: of one in the host's account, or of
// anything that the provider would fetch.
func (s *scanner) fileURI() bool {
	if s.peek() != '"' {
		return s.literal("null")
	}
	in, _, ok := s.str()
	if !ok {
		return false
	}
	s.env.boundless = true
	if s.within(in, "files/") || s.within(in, "https://generativelanguage.googleapis.com/") {
		return s.host(hostedFile)
	}
	return s.host(hostedURL)
}

func (s *scanner) modelName() bool {
	at := s.i
	if s.peek() != '"' {
		return s.fail("model must be a string")
	}
	in, escaped, ok := s.str()
	if !ok {
		return false
	}
	bad := escaped || in.empty() || in.hi-in.lo > maxModel
	for _, c := range in.of(s.b) {
		bad = bad || c <= 0x20 || c > 0x7e
	}
	if bad {
		s.i = at
		return s.fail("model must be a plain name without escapes")
	}
	s.env.model = in
	return true
}

// flag consumes true, false or null (which is false).
func (s *scanner) flag(into *bool, where *span) bool {
	from := s.i
	switch s.peek() {
	case 't', 'f', 'n':
		*into = s.peek() == 't'
	default:
		return s.fail("true or false was expected")
	}
	ok := s.value(anywhere, 0)
	if where != nil {
		*where = span{from, s.i}
	}
	return ok
}

// limit consumes a whole number from 0, or null, and keeps the largest that was
// seen.
func (s *scanner) limit(into *int64) bool {
	if s.peek() == 'n' {
		return s.literal("null")
	}
	from := s.i
	if c := s.peek(); c < '0' || c > '9' {
		return s.fail("a whole number was expected")
	}
	if !s.number() {
		return false
	}
	var n int64
	for _, c := range s.b[from:s.i] {
		if c < '0' || c > '9' || n > 1<<50 {
			s.i = from
			return s.fail("a whole number was expected")
		}
		n = n*10 + int64(c-'0')
	}
	*into = max(*into, n)
	return true
}

// text consumes a string, or anything else, which says nothing.
func (s *scanner) text(into *span) bool {
	if s.peek() != '"' {
		return s.value(anywhere, 0)
	}
	in, _, ok := s.str()
	*into = in
	return ok
}

// word consumes a plain string without escapes, or null.
func (s *scanner) word(into *span) bool {
	if s.peek() == 'n' {
		return s.literal("null")
	}
	at := s.i
	if s.peek() != '"' {
		return s.fail("a string was expected")
	}
	in, escaped, ok := s.str()
	if !ok {
		return false
	}
	if escaped || in.hi-in.lo > maxModel {
		s.i = at
		return s.fail("names and types must be short and without escapes")
	}
	*into = in
	return true
}

// unlessEmpty consumes a value and notes name as a hosted tool unless the value
// is null, false, [] or {}.
func (s *scanner) unlessEmpty(name string, depth int) bool {
	from := s.i
	if !s.value(anywhere, depth+1) {
		return false
	}
	if nothing(s.b[from:s.i]) {
		return true
	}
	return s.host(name)
}

// mediaURL consumes the address of an image, document or sound. Only data: URLs
// carry it with them; anything else the provider would fetch.
func (s *scanner) mediaURL(counts bool) bool {
	if s.peek() != '"' {
		if s.peek() == 'n' {
			return s.literal("null")
		}
		return s.fail("a URL must be a string")
	}
	in, _, ok := s.str()
	if !ok {
		return false
	}
	if counts { // else its block does
		s.addressMedia(in)
	}
	return s.within(in, "data:") || s.host(hostedURL)
}

// fileData consumes the content of a file: base64, alone or in a data: URL. Some
// servers accept the address of a file in its place.
func (s *scanner) fileData() bool {
	if s.peek() != '"' {
		return s.value(anywhere, 0)
	}
	in, escaped, ok := s.str()
	if !ok {
		return false
	}
	s.env.boundless = s.env.boundless || !in.empty()
	address := escaped || bytes.IndexByte(in.of(s.b), ':') >= 0
	return !address || s.within(in, "data:") || s.host(hostedURL)
}
