package attack

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	headerSession = "Mcp-Session-Id"
	headerVersion = "Mcp-Protocol-Version"
	modernMeta    = `"_meta":{"io.modelcontextprotocol/protocolVersion":"` + Modern + `","io.modelcontextprotocol/clientCapabilities":{}},`

	wait      = 20 * time.Second // for one answer
	maxAnswer = 8 << 20
)

// A shot is one HTTP request.
type shot struct {
	method string
	header [][2]string
	raw    []string
	body   string
}

// An answer is what an endpoint said to a shot.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// base is a good call of an era.
func (p *Player) base(ctx context.Context, era, tool, args string) (shot, error) {
	call := func(meta string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + meta + `"name":"` + tool + `","arguments":` + args + `}}`
	}
	if era == Modern {
		return shot{body: call(modernMeta), header: [][2]string{{headerVersion, Modern}, {"Mcp-Method", "tools/call"}, {"Mcp-Name", printable(tool)}}}, nil
	}
	session, err := p.session(ctx, p.Header)
	return shot{body: call(""), header: [][2]string{session, {headerVersion, Legacy}}}, err
}

// session opens a session of the older era once for each identity. An endpoint
// without sessions has none.
func (p *Player) session(ctx context.Context, id http.Header) ([2]string, error) {
	key := fmt.Sprint(id)
	if s, ok := p.sessions[key]; ok {
		return s, nil
	}
	a := p.fire(ctx, p.initialize(), id)
	if a.verdict() != answered {
		return [2]string{}, fmt.Errorf("initialize: %s", a.reason())
	}
	s := [2]string{headerSession, cmp.Or(a.header.Get(headerSession), "-")}
	p.fire(ctx, shot{header: [][2]string{s, {headerVersion, Legacy}}, body: `{"jsonrpc":"2.0","method":"notifications/initialized"}`}, id)
	p.sessions[key] = s
	return s, nil
}

func (p *Player) initialize() shot {
	can := `{"elicitation":{},"sampling":{},"roots":{}}`
	if p.Plain {
		can = `{}`
	}
	return shot{body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + Legacy + `","capabilities":` + can + `,"clientInfo":{"name":"attack","version":"1"}}}`}
}

// call makes one well-formed call.
func (p *Player) call(ctx context.Context, era, tool, args string) answer {
	s, err := p.base(ctx, era, tool, args)
	if err != nil {
		return answer{err: err}
	}
	return p.fire(ctx, s, p.Header)
}

// request makes any other well-formed request. params is what is in the object.
func (p *Player) request(ctx context.Context, era, method, name, params string, id http.Header) answer {
	s, err := p.base(ctx, era, "", "{}")
	if err != nil {
		return answer{err: err}
	}
	if era == Modern {
		params = strings.TrimSuffix(modernMeta+params, ",")
		s.header = [][2]string{{headerVersion, Modern}, {"Mcp-Method", method}, {"Mcp-Name", cmp.Or(name, "-")}}
	} else if session, err := p.session(ctx, id); err == nil {
		s.header[0] = session
	}
	s.body = `{"jsonrpc":"2.0","id":1,"method":` + quote(method) + `,"params":{` + params + `}}`
	return p.fire(ctx, s, id)
}

// shot makes the request of a case.
func (p *Player) shot(ctx context.Context, c Case, era string) (shot, error) {
	s, err := p.base(ctx, era, p.words.Replace(cmp.Or(c.Tool, p.Tool)), p.words.Replace(cmp.Or(c.Args, p.Args)))
	if err != nil {
		return s, err
	}
	if old := p.words.Replace(c.Old); old != "" {
		if !strings.Contains(s.body, old) {
			return s, fmt.Errorf("attack: case %s %q: there is no %s in %s", c.ID, c.Name, old, s.body)
		}
		s.body = strings.Replace(s.body, old, p.words.Replace(c.New), 1)
	}
	if c.Body != "" {
		meta := ""
		if era == Modern {
			meta = modernMeta
		}
		s.body = strings.NewReplacer("$call", s.body, "$meta", meta, "$onlymeta", strings.TrimSuffix(meta, ",")).Replace(p.words.Replace(c.Body))
		s.body = strings.TrimPrefix(s.body, emptyBody)
	}
	s.header = slices.DeleteFunc(s.header, func(old [2]string) bool {
		return slices.ContainsFunc(c.Header, func(h [2]string) bool { return strings.EqualFold(h[0], old[0]) })
	})
	for _, h := range c.Header {
		s.header = append(s.header, [2]string{h[0], p.words.Replace(h[1])})
	}
	s.method, s.raw = c.Method, c.Raw
	return s, nil
}

// emptyBody stands for no body at all.
const emptyBody = "$empty"

// fire sends a request with the headers of a well-behaved client and of an
// identity. A header that a shot names replaces those; a name that it repeats is
// sent twice.
func (p *Player) fire(ctx context.Context, s shot, id http.Header) answer {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, cmp.Or(s.method, http.MethodPost), p.URL, strings.NewReader(s.body))
	if err != nil {
		return answer{err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range id {
		r.Header[k] = v
	}
	set := map[string]bool{}
	for _, h := range s.header {
		name := http.CanonicalHeaderKey(h[0])
		if name == "Host" {
			r.Host = h[1]
			continue
		}
		if !set[name] {
			r.Header.Del(name)
		}
		set[name] = true
		if h[1] == "-" {
			delete(set, name)
			continue
		}
		r.Header[name] = append(r.Header[name], h[1])
	}
	if len(s.raw) > 0 {
		return rawly(ctx, r, s)
	}
	resp, err := p.client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	return read(resp)
}

func read(resp *http.Response) answer {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(b)}
	if len(b) == 0 {
		a.err = err
	}
	return a
}

// rawly writes a head that Go's client would not.
func rawly(ctx context.Context, r *http.Request, s shot) answer {
	u, err := url.Parse(r.URL.String())
	if err != nil {
		return answer{err: err}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return answer{err: err}
	}
	defer conn.Close()
	if u.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: u.Hostname()})
	}
	if at, ok := ctx.Deadline(); ok {
		conn.SetDeadline(at)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", r.Method, cmp.Or(u.RequestURI(), "/"), u.Host)
	r.Header.Write(&b)
	for _, line := range s.raw {
		b.WriteString(strings.ReplaceAll(line, "$length", fmt.Sprint(len(s.body))) + "\r\n")
	}
	b.WriteString("\r\n" + s.body + "\r\n\r\n") // so that nobody waits for the end of a line
	if _, err := conn.Write(b.Bytes()); err != nil {
		return answer{err: err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return answer{err: err}
	}
	return read(resp)
}

type verdict int

const (
	refused verdict = iota
	answered
	silent // accepted without an answer
)

// A reply is what matters of a JSON-RPC response.
type reply struct {
	Result *struct {
		IsError bool                       `json:"isError"`
		Content []struct{ Text string }    `json:"content"`
		Meta    map[string]json.RawMessage `json:"_meta"`
		Type    string                     `json:"resultType"`
	} `json:"result"`
	Error *struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	} `json:"error"`
}

// message is the response in a body, or in the last event of a stream.
func (a answer) message() (json.RawMessage, bool) {
	text := a.body
	if strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		text = ""
		for line := range strings.Lines(a.body) {
			if data, found := strings.CutPrefix(line, "data:"); found && (strings.Contains(data, `"result"`) || strings.Contains(data, `"error"`)) {
				text = data
			}
		}
	}
	return json.RawMessage(text), strings.TrimSpace(text) != ""
}

func (a answer) reply() (out reply, ok bool) {
	text, ok := a.message()
	ok = ok && json.Unmarshal(text, &out) == nil && (out.Result != nil || out.Error != nil)
	return out, ok
}

func (a answer) verdict() verdict {
	if a.err != nil || a.status >= 300 {
		return refused
	}
	r, ok := a.reply()
	switch {
	case !ok && strings.TrimSpace(a.body) == "":
		return silent
	case ok && (r.Error != nil || r.Result.IsError || r.Result.Type == "input_required"):
		return refused
	}
	return answered
}

// reason is what the endpoint said, in a few words.
func (a answer) reason() string {
	if a.err != nil {
		var timeout net.Error
		if errors.As(a.err, &timeout) && timeout.Timeout() {
			return "no answer in time"
		}
		return "connection: " + clip(a.err.Error(), 100)
	}
	r, ok := a.reply()
	switch {
	case ok && r.Error != nil:
		return fmt.Sprintf("%d, error %d: %s", a.status, r.Error.Code, clip(r.Error.Message, 80))
	case ok && r.Result.IsError:
		text := "isError"
		for _, c := range r.Result.Content {
			text = cmp.Or(c.Text, text)
		}
		return fmt.Sprintf("%d, %s", a.status, clip(text, 80))
	}
	return fmt.Sprintf("%d %s", a.status, clip(strings.TrimSpace(a.body), 60))
}

// memberOf returns one member of a JSON object as it is written.
func memberOf(object, name string) (string, error) {
	d := jsontext.NewDecoder(strings.NewReader(object))
	if tok, err := d.ReadToken(); err != nil || tok.Kind() != '{' {
		return "", fmt.Errorf("attack: the arguments must be a JSON object: %s", object)
	}
	for d.PeekKind() == '"' {
		start := d.InputOffset()
		tok, err := d.ReadToken()
		if err != nil {
			break
		}
		key := tok.String()
		v, err := d.ReadValue()
		if err != nil {
			break
		}
		if key == name {
			if v.Kind() != '"' {
				return "", fmt.Errorf("attack: %q must be a string in %s", name, object)
			}
			return strings.TrimLeft(object[start:d.InputOffset()], " \t\r\n,"), nil
		}
	}
	return "", fmt.Errorf("attack: there is no %q in %s", name, object)
}

// sameJSON compares two texts as JSON, with numbers as they are written.
func sameJSON(a, b []byte) bool {
	x, y := jsontext.Value(bytes.Clone(a)), jsontext.Value(bytes.Clone(b))
	asWritten := []jsontext.Options{jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)}
	if x.Canonicalize(asWritten...) != nil || y.Canonicalize(asWritten...) != nil {
		return false
	}
	return bytes.Equal(x, y)
}

func quote(s string) string {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		return `""`
	}
	return string(b)
}

// printable is what of a name fits into a header.
func printable(s string) string {
	var name string
	if json.Unmarshal([]byte(`"`+s+`"`), &name) != nil {
		name = s
	}
	return cmp.Or(strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, name), "-")
}

func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// escapeFirst writes a word with an escape sequence in it.
func escapeFirst(s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprintf(`\u%04x`, s[0]) + s[1:]
}
