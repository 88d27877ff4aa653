package credential

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// LastResortQuery sends the secret as a parameter of the query, in place of any
// of that name. As the name says: URLs end up in the logs of servers and
// proxies, where a header does not. Use it only for services that take nothing
// else.
func LastResortQuery(name string) Scheme { return query{name} }

type query struct{ name string }

func (s query) Apply(r *http.Request, secret []byte) error {
	if s.name == "" {
		return ErrScheme
	}
	kept, err := dropParam(r.URL.RawQuery, s.name)
	if err != nil {
		return fmt.Errorf("%w: its query cannot be read", ErrScheme)
	}
	r.URL.RawQuery = addParam(kept, s.name, secret)
	r.URL.ForceQuery = false
	return nil
}

// maxForm bounds the forms that [Form] can extend.
const maxForm = 1 << 20

// Form sends the secret as a field of a form in the request's body
// (application/x-www-form-urlencoded), in place of any of that name. A request
// without a body gets one, unless its method is GET or HEAD; a body of another
// type, or of more than 1 MiB, is refused with [ErrBody].
func Form(name string) Scheme { return form{name} }

type form struct{ name string }

func (s form) Apply(r *http.Request, secret []byte) error {
	const formType = "application/x-www-form-urlencoded"
	if s.name == "" {
		return ErrScheme
	}
	if r.Method == "" || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return fmt.Errorf("%w: %s requests have no form", ErrBody, r.Method)
	}
	var old []byte
	if r.Body != nil && r.Body != http.NoBody {
		if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != formType {
			return fmt.Errorf("%w: it is not a form (%s)", ErrBody, formType)
		}
		var err error
		old, err = io.ReadAll(io.LimitReader(r.Body, maxForm+1))
		if err != nil {
			return fmt.Errorf("%w: it cannot be read", ErrBody)
		}
		if len(old) > maxForm {
			return fmt.Errorf("%w: the form has more than %d bytes", ErrBody, maxForm)
		}
		_ = r.Body.Close()
	}
	kept, err := dropParam(string(old), s.name)
	if err != nil {
		return fmt.Errorf("%w: the form cannot be read", ErrBody)
	}
	body := []byte(addParam(kept, s.name, secret))
	r.Header.Set("Content-Type", formType)
	r.Header.Del("Content-Length")
	r.TransferEncoding = nil
	r.ContentLength = int64(len(body))
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return nil
}

// dropParam returns text without the pairs of that name and otherwise as it
// is. A pair whose name cannot be read is an error, for another reader might
// make that name of it; so is a semicolon, which some take for a separator.
func dropParam(text, name string) (string, error) {
	if text == "" {
		return "", nil
	}
	if strings.Contains(text, ";") {
		return "", ErrScheme
	}
	var kept []string
	for pair := range strings.SplitSeq(text, "&") {
		key, _, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		if err != nil {
			return "", err
		}
		if key != name {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&"), nil
}

func addParam(text, name string, secret []byte) string {
	pair := url.QueryEscape(name) + "=" + url.QueryEscape(string(secret))
	if text == "" {
		return pair
	}
	return text + "&" + pair
}
