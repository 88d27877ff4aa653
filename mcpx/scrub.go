package mcpx

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// What comes back from an upstream is searched for the secrets of this host before
// anybody sees it.

// clean scrubs a result, which stays as the upstream wrote it otherwise.
func (g *Gateway) clean(ctx context.Context, f *flight, c *carriage) (reply, error) {
	raw, err := g.scrubbed(ctx, f, c)
	if err != nil {
		return nil, err
	}
	r, asks, ok := parseResult(c.method, raw)
	if !ok || r.task != nil && (f.q == nil || !f.q.tasks) {
		return nil, errUnreadable
	}
	if asks {
		return r, errAsks
	}
	f.out.Bytes = r.bytes
	return r, nil
}

// errUnreadable is why nothing is passed on of an answer.
var errUnreadable = failed("upstream-garbage", "The server's answer could not be read.", false)

// scrubbed is the text of a result without secrets.
func (g *Gateway) scrubbed(ctx context.Context, f *flight, c *carriage) (json.RawMessage, error) {
	c.mu.Lock()
	raw := c.result
	c.mu.Unlock()
	if len(raw) == 0 {
		return nil, errUnreadable
	}
	raw, found := g.redact(c, raw)
	if len(found) > 0 {
		if err := g.leaked(ctx, f, "result", found); err != nil {
			return nil, err
		}
		if !json.Valid(raw) {
			return nil, errUnreadable
		}
	}
	raw, found, ok := g.redactData(c, raw)
	if len(found) > 0 {
		if err := g.leaked(ctx, f, "data", found); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, errUnreadable
	}
	if found := g.split(c, raw); len(found) > 0 {
		if err := g.leaked(ctx, f, "split", found); err != nil {
			return nil, err
		}
		return nil, failed(codeWithheld, "The answer is withheld: it held a secret of this host, in pieces. The call was done.", false)
	}
	return raw, nil
}

// cleanError scrubs an upstream's JSON-RPC error.
func (g *Gateway) cleanError(ctx context.Context, f *flight, c *carriage, e *jsonrpc.Error) error {
	text, found := g.redact(c, []byte(e.Message))
	data, more := g.redact(c, e.Data)
	if found = found.Plus(more); len(found) > 0 {
		if err := g.leaked(ctx, f, "error", found); err != nil {
			return err
		}
	}
	if !json.Valid(data) {
		data = nil
	}
	if isPagesError(e) {
		return g.wantsPages(ctx, f, data)
	}
	f.out.Bytes = int64(len(text) + len(data))
	code := e.Code
	if code == CodeDenied {
		code, data = jsonrpc.CodeInternalError, nil // nobody else speaks for Twinward
	}
	return &jsonrpc.Error{Code: code, Message: string(text), Data: data}
}

// scrubbers returns what knows the secrets that must not come back: the leased
// one, and all of the vault if it says so.
func (g *Gateway) scrubbers(c *carriage) []*credential.Scrubber {
	var all []*credential.Scrubber
	if c.lease != nil {
		all = append(all, c.lease.Scrubber())
	}
	if v, ok := g.opts.Vault.(interface{ Scrubber() *credential.Scrubber }); ok {
		if s := v.Scrubber(); s != nil && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func (g *Gateway) redact(c *carriage, b []byte) ([]byte, credential.Found) {
	var found credential.Found
	for _, s := range g.scrubbers(c) {
		clean, n := s.Redact(b)
		b, found = clean, found.Plus(n)
	}
	return b, found
}

// redactData scrubs what came base64-encoded once it is decoded, in members
// called data or blob wherever they are. A decoder passes over line breaks, which
// hid it while it was text. It reports false for what is not JSON.
func (g *Gateway) redactData(c *carriage, raw []byte) (_ []byte, found credential.Found, ok bool) {
	if len(g.scrubbers(c)) == 0 || !mayName(raw, "data") && !mayName(raw, "blob") {
		return raw, nil, true
	}
	var out []byte
	last := int64(0)
	d := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	encoded := false // what comes next is the value of such a member
	for {
		kind, n := d.StackIndex(d.StackDepth())
		isName := kind == '{' && n%2 == 0
		if encoded && d.PeekKind() == '"' {
			v, err := d.ReadValue()
			if err != nil {
				return nil, found, false
			}
			encoded = false
			text, _ := jsontext.AppendUnquote(nil, v)
			clean, in := g.redact(c, decodeLoosely(text))
			if len(in) == 0 {
				continue
			}
			found = found.Plus(in)
			end := d.InputOffset()
			out = append(out, raw[last:end-int64(len(v))]...)
			out = append(append(append(out, '"'), base64.StdEncoding.EncodeToString(clean)...), '"')
			last = end
			continue
		}
		tok, err := d.ReadToken()
		if err == io.EOF {
			return append(out, raw[last:]...), found, true
		}
		if err != nil {
			return nil, found, false
		}
		encoded = isName && tok.Kind() == '"' && (tok.String() == "data" || tok.String() == "blob")
	}
}

// mayName reports whether a JSON text may have members of that name, which can be
// written with escapes.
func mayName(raw []byte, name string) bool {
	return bytes.Contains(raw, []byte(`"`+name+`"`)) || bytes.Contains(raw, []byte(`\u`))
}

// decodeLoosely decodes base64 as the most forgiving of decoders do: of either
// alphabet, without padding, and passing over whatever is not of it.
func decodeLoosely(text []byte) []byte {
	plain := make([]byte, 0, len(text))
	for _, b := range text {
		switch {
		case b == '-':
			b = '+'
		case b == '_':
			b = '/'
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '+', b == '/':
		default:
			continue
		}
		plain = append(plain, b)
	}
	if len(plain)%4 == 1 {
		plain = plain[:len(plain)-1]
	}
	n, _ := base64.RawStdEncoding.Decode(plain, plain)
	return plain[:n]
}

func (g *Gateway) redactText(c *carriage, s string) string {
	b, _ := g.redact(c, []byte(s))
	return string(b)
}

// heardSecret is leaked for a message that came before the result, on another
// goroutine than the call's.
func (g *Gateway) heardSecret(ctx context.Context, f *flight, c *carriage, found credential.Found) error {
	c.mu.Lock()
	c.found = append(c.found, found.Checks()...)
	c.mu.Unlock()
	return g.opts.Leaks.Report(ctx, g.gov.log, audit.Event{
		Door: audit.DoorTool, Action: f.decision.Action, Resource: f.decision.Resource, Actor: f.actor, Trace: f.trace,
	}, "message", found)
}

// leaked puts on record that an upstream sent a secret back, and returns why
// the answer is withheld, if it is.
func (g *Gateway) leaked(ctx context.Context, f *flight, surface string, found credential.Found) error {
	f.out.Checks = append(f.out.Checks, found.Checks()...)
	err := g.opts.Leaks.Report(ctx, g.gov.log, audit.Event{
		Door: audit.DoorTool, Action: f.decision.Action, Resource: f.decision.Resource, Actor: f.actor, Trace: f.trace,
	}, surface, found)
	switch {
	case errors.Is(err, credential.ErrLeak):
		g.gov.logger.Warn("mcpx: an answer is withheld because of a secret in it", "server", f.server, "tool", f.tool, "error", err)
		return failed(codeWithheld, "The answer is withheld: it held a secret of this host. The call was done.", false)
	case err != nil:
		g.gov.logger.Error("mcpx: a leak could not be recorded, so the answer is withheld", "server", f.server, "tool", f.tool, "error", err)
		return failed(codeAudit, "The answer is withheld: the audit log cannot be written.", false)
	}
	return nil
}
