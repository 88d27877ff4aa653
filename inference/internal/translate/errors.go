package translate

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxMessage bounds what is passed on of a backend's error message, in bytes.
const maxMessage = 2048

// Error translates the body of an answer with a status from 400 on to the shape
// that the client's protocol has for it. It never fails: of what cannot be read
// only the status is told.
func (x *Exchange) Error(status int, body []byte) []byte {
	var d doc
	message, code := "", ""
	if d.parse(body) == nil {
		root := d.root()
		e := root.member("error")
		if !e.ok() {
			e = root // such as {"object":"error","message":…} or {"detail":…}
		}
		message, code = errorMessage(e), e.member("code").string()
	}
	if message == "" {
		message = fmt.Sprintf("the backend answered with status %d", status)
	}
	var o out
	if x.from == Messages {
		messagesError(&o, claudeErrorType(status), message)
	} else {
		o.raw(`{"error":{`)
		o.word("message", message)
		o.word("type", openAIErrorType(status))
		o.literal("param", "null")
		if code != "" {
			o.word("code", code)
		} else {
			o.literal("code", "null")
		}
		o.raw("}}")
	}
	return o.b
}

func messagesError(o *out, typ, message string) {
	o.raw(`{"type":"error","error":{`)
	o.word("type", typ)
	o.word("message", message)
	o.raw("}}")
}

// errorMessage finds the words in the forms of error that servers use.
func errorMessage(e value) string {
	s := e.string()
	for _, name := range []string{"message", "detail", "error"} {
		if s == "" {
			s = e.member(name).string()
		}
	}
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// claudeErrorType names an HTTP status as Anthropic does.
func claudeErrorType(status int) string {
	switch status {
	case 401:
		return "authentication_error"
	case 402:
		return "billing_error"
	case 403:
		return "permission_error"
	case 404:
		return "not_found_error"
	case 413:
		return "request_too_large"
	case 429:
		return "rate_limit_error"
	case 503, 529:
		return "overloaded_error"
	case 504:
		return "timeout_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

func openAIErrorType(status int) string {
	switch {
	case status == 401:
		return "authentication_error"
	case status == 403:
		return "permission_error"
	case status == 429:
		return "rate_limit_error"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// errorStatus guesses the HTTP status of an error that came in a stream.
func errorStatus(e value) int {
	for _, name := range []string{"code", "status", "type"} {
		v := e.member(name)
		word := bytes.Trim(v.raw(), `"`)
		switch {
		case len(word) == 3 && word[0] >= '4' && word[0] <= '5' && v.kind() != 0:
			return int(word[0]-'0')*100 + int(word[1]-'0')*10 + int(word[2]-'0')
		case bytes.Contains(word, []byte("rate_limit")):
			return 429
		case bytes.Contains(word, []byte("overloaded")):
			return 529
		}
	}
	return 500
}

// valid makes any bytes fit for a JSON string.
func valid(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strings.ToValidUTF8(string(b), "")
}
