package credential

import (
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// The content codings of RFC 9110, 8.4, that are asked for.
const (
	codingGzip = "gzip"
	codingNone = "identity"
)

// codingFor returns which coding to ask for: none where net/http would not ask for
// one either, and for a caller who wants none.
func codingFor(req *http.Request) string {
	if req.Method == http.MethodHead || req.Header.Get("Range") != "" || slices.Equal(req.Header["Accept-Encoding"], []string{codingNone}) {
		return codingNone
	}
	return codingGzip
}

// decode makes the body of a response one that can be searched: it undoes gzip
// if that was asked for, and refuses every other content coding and every pile of
// them.
func decode(resp *http.Response, asked string) error {
	if resp.Uncompressed {
		return ErrCoding // by somebody who was not asked to, and may have left others on
	}
	var codings []string
	for name, values := range resp.Header {
		if !isCoding(name) {
			continue
		}
		for _, list := range values { // one list, in however many lines
			for coding := range strings.SplitSeq(list, ",") {
				if coding = strings.ToLower(strings.TrimSpace(coding)); coding != "" && coding != codingNone {
					codings = append(codings, coding)
				}
			}
		}
	}
	switch {
	case len(codings) == 0:
		return nil
	case len(codings) > 1 || asked != codingGzip || codings[0] != codingGzip && codings[0] != "x-gzip":
		return ErrCoding
	}
	maps.DeleteFunc(resp.Header, func(name string, _ []string) bool { return isCoding(name) })
	if resp.Body != nil && resp.Body != http.NoBody {
		resp.Header.Del("Content-Length")
		resp.ContentLength, resp.Uncompressed = -1, true
		resp.Body = &gzipBody{ReadCloser: resp.Body}
	}
	return nil
}

func isCoding(name string) bool { return http.CanonicalHeaderKey(name) == "Content-Encoding" }

// A gzipBody begins to decode when it is read, because a stream may begin late.
type gzipBody struct {
	io.ReadCloser
	plain *gzip.Reader
	err   error
}

func (b *gzipBody) Read(p []byte) (int, error) {
	if b.plain == nil && b.err == nil {
		b.plain, b.err = gzip.NewReader(b.ReadCloser)
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.plain.Read(p)
}
