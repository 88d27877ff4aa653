package inference

// A media is what the source of a content block carries.
type media uint8

const (
	noMedia    media = iota // text, which counts by its bytes
	imageMedia              // an image that comes with the request
	otherMedia              // any other, or the address of one
)

// isImage reports whether a media type, as it is written in JSON, is that of an
// image.
func isImage(mime []byte) bool { return mediaType(mime) == "image" }

// mediaType is what stands before the slash, which some write as an escape.
func mediaType(mime []byte) string {
	for i, c := range mime {
		if c == '/' || c == '\\' {
			return string(mime[:i])
		}
	}
	return ""
}

// sourceMedia says what a source of Anthropic's carries.
func (s *scanner) sourceMedia(m *tool) media {
	switch string(m.typ.of(s.b)) {
	case "text", "content":
		return noMedia
	case "base64":
		if isImage(m.mime.of(s.b)) {
			return imageMedia
		}
	}
	return otherMedia
}

// blockMedia counts what a block carries. Of an image the tokens have a bound,
// wherever it comes from; of what is taken for anything else they have none.
func (s *scanner) blockMedia(m *tool) {
	image := string(m.typ.of(s.b)) == "image"
	switch {
	case m.source == noMedia:
	case image && m.source == imageMedia:
		s.env.images++
		s.env.imageBytes += m.data.hi - m.data.lo
	case image && m.mime.empty():
		s.env.images++ // to be fetched
	default:
		s.env.boundless = true
	}
}

// inlineMedia counts the inline data of Gemini's. Text counts by its bytes.
func (s *scanner) inlineMedia(m *tool) {
	switch mediaType(m.mime.of(s.b)) {
	case "image":
		s.env.images++
		s.env.imageBytes += m.data.hi - m.data.lo
	case "text":
	default:
		s.env.boundless = true
	}
}

// addressMedia counts what is to be found at an address, or in it.
func (s *scanner) addressMedia(in span) {
	switch data := s.within(in, "data:"); {
	case !s.image, data && !isImage(span{in.lo + len("data:"), in.hi}.of(s.b)):
		s.env.boundless = true
	default:
		s.env.images++
		if data {
			s.env.imageBytes += in.hi - in.lo
		}
	}
}
