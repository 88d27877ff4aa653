package inferencetest

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// A request is what the protocols have in common. Those of responses and Gemini
// are turned into it.
type request struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Messages []message       `json:"messages"`
	Tools    []tool          `json:"tools"`
	Input    json.RawMessage `json:"input"` // of responses and embeddings
}

type tool struct {
	Name     string `json:"name"`
	Function struct {
		Name string `json:"name"`
	} `json:"function"`
	Tools []tool `json:"tools"` // of a namespace
}

// names are those of the tool, or of the tools in it.
func (t tool) names() []string {
	var all []string
	for _, inner := range t.Tools {
		all = append(all, inner.names()...)
	}
	if name := t.Name + t.Function.Name; name != "" && all == nil { // one of them is empty
		all = append(all, name)
	}
	return all
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type block struct {
	Type    string          `json:"type"`
	Text    string          `json:"text"`
	Content json.RawMessage `json:"content"`
}

func readRequest(body io.Reader) (req request, err error) {
	err = json.NewDecoder(body).Decode(&req)
	return req, err
}

func (r request) conversation() Conversation {
	c := Conversation{Model: r.Model}
	for _, t := range r.Tools {
		c.Tools = append(c.Tools, t.names()...)
	}
	for _, m := range r.Messages {
		switch m.Role {
		case "assistant":
			c.Turn++
			c.Results = nil
		case "tool":
			c.Results = append(c.Results, plain(m.Content))
		case "user":
			for _, b := range blocks(m.Content) {
				if b.Type == "tool_result" {
					c.Results = append(c.Results, plain(b.Content))
				}
			}
		}
	}
	return c
}

// namespace returns the name of the namespace that a tool is in, or "".
func (r request) namespace(tool string) string {
	for _, t := range r.Tools {
		for _, inner := range t.Tools {
			if slices.Contains(inner.names(), tool) {
				return t.Name
			}
		}
	}
	return ""
}

// promptTokens is a count that depends on nothing but the messages.
func (r request) promptTokens() int {
	n := len(r.Input)
	for _, m := range r.Messages {
		n += len(m.Content)
	}
	return n/4 + 1
}

func blocks(content json.RawMessage) []block {
	var bs []block
	_ = json.Unmarshal(content, &bs) // a string has none
	return bs
}

// plain returns the text of content, which is a string or a list of blocks.
func plain(content json.RawMessage) string {
	var s string
	if json.Unmarshal(content, &s) == nil {
		return s
	}
	var texts []string
	for _, b := range blocks(content) {
		texts = append(texts, b.Text)
	}
	return strings.Join(texts, "\n")
}

// words cuts text into pieces as a model would stream it.
func words(text string) []string {
	if text == "" {
		return nil
	}
	return strings.SplitAfter(text, " ")
}

// arguments returns the JSON arguments of a call.
func (c Call) arguments() string {
	if c.Args == nil {
		return "{}"
	}
	b, err := json.Marshal(c.Args)
	if err != nil {
		panic("inferencetest: arguments of " + c.Name + ": " + err.Error())
	}
	return string(b)
}

// completionTokens counts what a turn says.
func (t Turn) completionTokens() int { return len(words(t.Text)) + 8*len(t.Calls) }
