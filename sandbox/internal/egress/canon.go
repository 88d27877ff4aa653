package egress

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPath bounds the path of a request, in bytes.
const maxPath = 8 << 10

// errPath is the class of all paths that are refused because two servers could
// read them differently.
var errPath = errors.New("the path is ambiguous")

// A path is the path of a request in the one spelling that is judged, recorded
// and sent.
//
// What is the same to every server (RFC 3986, section 6.2.2) is made the same:
// letters, digits and -._~ are not encoded, what may not stand in a path is,
// hexadecimal digits are upper-case, empty and dot segments are resolved. The
// program's own spelling is not sent, as a server could resolve it in another
// way.
//
// An encoded delimiter, such as %2F or %3A, and a parameter after ";" are left
// as they are, for they mean one thing to one server and another thing to the
// next, and npm cannot do without. Such a path has several readings, and is
// allowed only if each of them is.
type path struct {
	text string
	more []string // other readings of text; mostly none
}

// canonicalPath reads the path of a request target, without its query.
func canonicalPath(raw string) (path, error) {
	if len(raw) > maxPath {
		return path{}, fmt.Errorf("%w: it has more than %d bytes", errPath, maxPath)
	}
	if !strings.HasPrefix(raw, "/") {
		return path{}, fmt.Errorf("%w: it does not begin with /", errPath)
	}
	spelled, err := respell(raw)
	if err != nil {
		return path{}, err
	}
	p := path{}
	if p.text, err = resolveDots(spelled); err != nil {
		return path{}, err
	}
	for i := strings.Index(p.text, "%25"); i >= 0; {
		if b, ok := unhex(p.text[i+3:]); ok && (b < 0x20 || b == '.' || b == '/' || b == '\\' || b == '%') {
			return path{}, fmt.Errorf("%w: it is encoded twice", errPath)
		}
		next := strings.Index(p.text[i+3:], "%25")
		if next < 0 {
			break
		}
		i += 3 + next
	}
	decoded := decodeDelimiters(p.text)
	for _, r := range []string{decoded, dropParameters(p.text), dropParameters(decoded)} {
		if r == p.text || len(p.more) > 0 && r == p.more[len(p.more)-1] {
			continue
		}
		if plain, err := resolveDots(r); err != nil || plain != r {
			return path{}, fmt.Errorf("%w: a server may read it as %q", errPath, r)
		}
		p.more = append(p.more, r)
	}
	return p, nil
}

// reading returns what a server may take the path for: the text for -1, and
// another for each place in more.
func (p path) reading(i int) string {
	if i < 0 {
		return p.text
	}
	return p.more[i]
}

// respell encodes each byte in the one way that is canonical.
func respell(raw string) (string, error) {
	plain := true
	for i := 0; i < len(raw) && plain; i++ {
		plain = raw[i] == '/' || kinds[raw[i]] == unreserved
	}
	if plain {
		return raw, nil
	}
	text := make([]byte, 0, len(raw)+16)
	decoded := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		b, encoded := raw[i], false
		if b == '%' {
			var ok bool
			if b, ok = unhex(raw[i+1:]); !ok {
				return "", fmt.Errorf("%w: %% without two hexadecimal digits", errPath)
			}
			encoded = true
			i += 2
		}
		switch {
		case b < 0x20 || b == 0x7f:
			return "", fmt.Errorf("%w: it contains a control character", errPath)
		case b == '\\':
			return "", fmt.Errorf("%w: it contains a backslash", errPath)
		case !encoded && (b == '#' || b == '?' || b == ' '):
			return "", fmt.Errorf("%w: it contains %q", errPath, b)
		case kinds[b] == unreserved, kinds[b] == delimiter && !encoded:
			text = append(text, b)
		default:
			text = append(text, '%', upperHex[b>>4], upperHex[b&15])
		}
		decoded = append(decoded, b)
	}
	if !utf8.Valid(decoded) {
		return "", fmt.Errorf("%w: it is not UTF-8", errPath)
	}
	return string(text), nil
}

// resolveDots takes out empty and dot segments (RFC 3986, section 5.2.4). A
// segment that climbs above the root is an error.
func resolveDots(p string) (string, error) {
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		return p, nil
	}
	out := make([]byte, 0, len(p))
	for rest := p[1:]; ; {
		seg, after, more := strings.Cut(rest, "/")
		switch seg {
		case "":
		case ".":
		case "..":
			up := strings.LastIndexByte(string(out), '/')
			if up < 0 {
				return "", fmt.Errorf("%w: it climbs above the root", errPath)
			}
			out = out[:up]
		default:
			out = append(append(out, '/'), seg...)
		}
		if !more {
			if seg == "" || seg == "." || seg == ".." {
				out = append(out, '/')
			}
			return string(out), nil
		}
		rest = after
	}
}

// decodeDelimiters decodes what servers differ about.
func decodeDelimiters(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' {
			if b, _ := unhex(text[i+1:]); kinds[b] == delimiter {
				out = append(out, b)
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	return string(out)
}

// dropParameters takes out what follows ";" in each segment.
func dropParameters(text string) string {
	if !strings.Contains(text, ";") {
		return text
	}
	segs := strings.Split(text, "/")
	for i, s := range segs {
		segs[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segs, "/")
}

// The kinds of bytes in a path (RFC 3986, section 3.3); 0 is what must be
// encoded.
const (
	unreserved = 1 + iota // the same encoded or not
	delimiter             // may stand as it is, and is something else encoded
)

var kinds = func() (k [256]byte) {
	for _, b := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") {
		k[b] = unreserved
	}
	for _, b := range []byte("!$&'()*+,;=:@/") {
		k[b] = delimiter
	}
	return k
}()

const upperHex = "0123456789ABCDEF"

// unhex reads the two hexadecimal digits that s begins with.
func unhex(s string) (b byte, ok bool) {
	if len(s) < 2 {
		return 0, false
	}
	for _, c := range []byte(s[:2]) {
		b <<= 4
		switch {
		case '0' <= c && c <= '9':
			b |= c - '0'
		case 'a' <= c && c <= 'f':
			b |= c - 'a' + 10
		case 'A' <= c && c <= 'F':
			b |= c - 'A' + 10
		default:
			return 0, false
		}
	}
	return b, true
}
