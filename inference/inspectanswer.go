package inference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/governance"
)

// defaultWindow is how much of a text is held back, in bytes.
const defaultWindow = 256

// maxQueued is how much of an answer is held back before all of it is looked at,
// in bytes.
const maxQueued = 256 << 10

// textKeys are the keys under which the protocols put what models say in pieces:
// text, thoughts, and the arguments of tools.
var textKeys = keys(`content text delta thinking partial_json arguments reasoning_content reasoning refusal input transcript`)

// wordKeys are the keys of the protocols' own words, which are not inspected.
var wordKeys = keys(`id item_id call_id tool_call_id tool_use_id response_id responseId previous_response_id type role
	model modelVersion object finish_reason finishReason stop_reason status service_tier system_fingerprint obfuscation
	signature thoughtSignature encrypted_content`)

// openKeys are those of objects whose keys are the model's or the tool's: there
// every string is inspected.
var openKeys = keys(`input args arguments partialArgs action operation`)

// echoKeys are those of a response under which it repeats the request.
var echoKeys = keys(`instructions tools metadata`)

func keys(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// What a string of an answer is.
type stringKind uint8

const (
	word      stringKind = iota // the protocol's, not inspected
	textPiece                   // a part of a text, or all of it
	whole                       // to be inspected by itself
)

// kindOf says what the string is that lies under path.
func kindOf(path []string) stringKind {
	key, open, depth := textKey(path), false, 0
	for i, name := range path {
		if name == "" {
			continue
		}
		if echoKeys[name] && (depth == 0 || depth == 1 && path[i-1] == "response") {
			return word
		}
		open = open || openKeys[name] && i < len(path)-1
		depth++
	}
	switch {
	case textKeys[key]:
		return textPiece
	case wordKeys[key] && !open:
		return word
	}
	return whole
}

// A piece is one string in an event: a part of a text.
type piece struct {
	lo, hi  int // in the event, with its quotes
	text    string
	changed bool
	free    bool // it may go to the client
}

// A queued event waits until its text may go.
type queued struct {
	data   []byte
	pieces []*piece
}

// An answerFilter holds back so much of each text of an answer that its inspector
// sees what is cut into pieces. Events stay in their order.
//
// What clients would see and an inspector would not does not pass: comments lose
// their words, and an event that has more than a name and one line of data is
// written anew with no more than that.
type answerFilter struct {
	look   AnswerInspector
	window int
	split  splitter
	queue  []*queued
	held   int // bytes in queue
	texts  map[string][]*piece

	blanked map[string]int // by label
	denied  *Finding
	err     error // why nothing more goes out
}

func newAnswerFilter(look AnswerInspector, window int) *answerFilter {
	return &answerFilter{look: look, window: window, texts: map[string][]*piece{}, blanked: map[string]int{}}
}

var errDenied = errors.New("inference: the inspector does not let the answer pass")

// stopped reports whether nothing more may go out.
func (f *answerFilter) stopped() bool { return f.err != nil }

// take looks at a part of a stream and returns what may go to the client.
func (f *answerFilter) take(p []byte) (out []byte) {
	f.split.buf = append(f.split.buf, p...)
	for ev, ok := f.split.next(); ok && f.err == nil; ev, ok = f.split.next() {
		f.push(ev.of(f.split.buf))
	}
	f.split.compact()
	return f.drain()
}

// end looks at everything that is held, of which no more comes, and returns it.
func (f *answerFilter) end() []byte {
	if len(f.split.buf) > 0 && f.err == nil {
		f.push(f.split.buf)
		f.split.buf = f.split.buf[:0]
	}
	f.close("")
	return f.drain()
}

func (f *answerFilter) fail(err error) {
	if f.err == nil {
		f.err, f.queue = err, nil
	}
}

func (f *answerFilter) drain() (out []byte) {
	n := 0
	for _, q := range f.queue {
		for _, p := range q.pieces {
			if !p.free {
				f.queue = f.queue[n:]
				return out
			}
		}
		out = q.appendTo(out)
		f.held -= len(q.data)
		n++
	}
	f.queue = f.queue[:0]
	return out
}

// appendTo writes the event with its texts as they are now. What was not changed
// is the backend's, byte for byte.
func (q *queued) appendTo(out []byte) []byte {
	from := 0
	for _, p := range q.pieces {
		if !p.changed {
			continue
		}
		quoted, err := jsontext.AppendQuote(nil, p.text)
		if err != nil {
			quoted = []byte(`""`) // it was valid when it was read
		}
		out = append(append(out, q.data[from:p.lo]...), quoted...)
		from = p.hi
	}
	return append(out, q.data[from:]...)
}

// marks are what of an event says whose text it is and whether it ends.
type marks struct {
	Type         string `json:"type"`
	Index        *int   `json:"index"`
	OutputIndex  *int   `json:"output_index"`
	ContentIndex *int   `json:"content_index"`
	Choices      []struct {
		Index  int     `json:"index"`
		Finish *string `json:"finish_reason"`
	} `json:"choices"`
	Candidates []struct {
		Index  int    `json:"index"`
		Finish string `json:"finishReason"`
	} `json:"candidates"`
}

// place names the part of the answer that the event is about, and says whether
// it ends that part, or all.
func (m *marks) place() (at string, ends, all bool) {
	for _, i := range []*int{m.Index, m.OutputIndex, m.ContentIndex} {
		if i != nil {
			at += fmt.Sprint(*i)
		}
		at += "/"
	}
	for _, c := range m.Choices {
		at += fmt.Sprint(c.Index, "/")
		ends = ends || c.Finish != nil && *c.Finish != ""
	}
	for _, c := range m.Candidates {
		at += fmt.Sprint(c.Index, "/")
		ends = ends || c.Finish != ""
	}
	switch {
	case m.Type == "message_stop", m.Type == "message_delta", m.Type == "error",
		m.Type == "response.completed", m.Type == "response.incomplete", m.Type == "response.failed":
		all = true
	case m.Type == "content_block_stop", strings.HasSuffix(m.Type, ".done"):
		ends = true
	}
	return at, ends || all, all
}

// eventName is what the protocols call their events.
var eventName = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)

// plainly returns an event as it may pass, and where in it its data lies; nothing
// of it is what no client reads. An event without data is a comment.
func plainly(ev []byte) (plain []byte, data span, err error) {
	fr := readFrame(ev)
	end := bytes.Equal(bytes.TrimSpace(fr.data), done)
	switch {
	case len(ev) == bytes.Count(ev, []byte("\n"))+bytes.Count(ev, []byte("\r")):
		return bytes.Clone(ev), span{}, nil // blank lines
	case len(fr.data) == 0:
		return []byte(":\n\n"), span{}, nil
	case !eventName.Match(fr.name):
		return nil, span{}, errors.New("inference: an event has no name that could be a protocol's, so that it cannot be inspected")
	case !end && !bytes.HasPrefix(fr.data, []byte("{")):
		return nil, span{}, errors.New("inference: an event is no JSON object, so that it cannot be inspected")
	case fr.only:
		return bytes.Clone(ev), span{fr.at, fr.at + len(fr.data)}, nil
	}
	if len(fr.name) > 0 {
		plain = fmt.Appendf(plain, "event: %s\n", fr.name)
	}
	plain = append(plain, "data: "...)
	data.lo = len(plain)
	plain = append(plain, bytes.ReplaceAll(fr.data, []byte("\n"), []byte(" "))...) // in JSON they are white space
	data.hi = len(plain)
	return append(plain, "\n\n"...), data, nil
}

// push takes one event.
func (f *answerFilter) push(ev []byte) {
	plain, at, err := plainly(ev)
	if err != nil {
		f.fail(err)
		return
	}
	q := &queued{data: plain}
	f.queue = append(f.queue, q)
	f.held += len(q.data)
	data, base := at.of(q.data), at.lo
	if len(data) == 0 || data[0] != '{' {
		if len(data) > 0 {
			f.close("")
		}
		return
	}
	var m marks
	if err := json.Unmarshal(data, &m); err != nil {
		f.fail(errors.New("inference: an event is no JSON, so that it cannot be inspected"))
		return
	}
	part, ends, all := m.place()
	var touched []string
	err = eachString(data, func(lo, hi int, path []string) {
		kind := kindOf(path)
		if kind == word || f.err != nil {
			return
		}
		text, err := unquote(data[lo:hi])
		if err != nil {
			f.fail(err)
			return
		}
		id := part + strings.Join(path, ".")
		p := &piece{lo: base + lo, hi: base + hi, text: text}
		q.pieces = append(q.pieces, p)
		if kind == whole {
			f.alone(p)
			return
		}
		f.texts[id] = append(f.texts[id], p)
		touched = append(touched, id)
	})
	if err != nil {
		f.fail(fmt.Errorf("inference: an event cannot be inspected: %w", err))
		return
	}
	switch {
	case all || f.held > maxQueued:
		f.close("")
	case ends:
		f.close(part)
	default:
		for _, id := range touched {
			f.inspect(id, false)
		}
	}
}

// close ends all texts of a part of the answer.
func (f *answerFilter) close(at string) {
	for id := range f.texts {
		if strings.HasPrefix(id, at) {
			f.inspect(id, true)
			delete(f.texts, id)
		}
	}
}

// inspect shows the window of a text to the inspector, blanks what it says, and
// frees what lies before the window.
func (f *answerFilter) inspect(id string, end bool) {
	if f.err != nil {
		return
	}
	pieces := f.texts[id]
	var b strings.Builder
	for _, p := range pieces {
		b.WriteString(p.text)
	}
	window := b.String()
	found, err := safely(func() (Finding, error) { return f.look.Text(window, end) })
	switch {
	case err != nil:
		f.fail(err)
		return
	case found.Deny:
		f.denied = &found
		f.fail(errDenied)
		return
	case !ordered(found.Blank, len(window)):
		f.fail(errBlank)
		return
	}
	if len(found.Blank) > 0 {
		blankPieces(pieces, found.Blank)
		f.blanked[found.label()] += len(found.Blank)
	}
	after := 0
	for i := len(pieces) - 1; i >= 0; i-- {
		if end || after >= f.window {
			pieces[i].free = true
		}
		after += len(pieces[i].text)
	}
	for len(pieces) > 0 && pieces[0].free {
		pieces = pieces[1:]
	}
	f.texts[id] = pieces
}

// alone inspects a text that came in one piece.
func (f *answerFilter) alone(p *piece) {
	const id = "alone"
	f.texts[id] = []*piece{p}
	f.inspect(id, true)
	delete(f.texts, id)
}

// blankPieces replaces ranges of a text that lies in pieces. What stands for a
// range is put where it begins.
func blankPieces(pieces []*piece, ranges []Range) {
	start := 0
	for _, p := range pieces {
		end := start + len(p.text)
		var b strings.Builder
		from := start
		for _, r := range ranges {
			lo, hi := max(r.From, start), min(r.To, end)
			if lo >= hi {
				continue
			}
			b.WriteString(p.text[from-start : lo-start])
			if r.From >= start {
				b.WriteString(governance.Redacted)
			}
			from = hi
			p.changed = true
		}
		if p.changed {
			b.WriteString(p.text[from-start:])
			p.text = b.String()
		}
		start = end
	}
}

// inspectWhole looks at an answer that came in one piece, and returns it as it
// may go to the client.
func (f *answerFilter) inspectWhole(data []byte) []byte {
	q := &queued{data: data}
	err := eachString(data, func(lo, hi int, path []string) {
		if kindOf(path) == word || f.err != nil {
			return
		}
		text, err := unquote(data[lo:hi])
		if err != nil {
			f.fail(err)
			return
		}
		p := &piece{lo: lo, hi: hi, text: text}
		q.pieces = append(q.pieces, p)
		f.alone(p)
	})
	if err != nil {
		f.fail(fmt.Errorf("inference: the answer cannot be inspected: %w", err))
	}
	if f.err != nil {
		return nil
	}
	return q.appendTo(nil)
}
