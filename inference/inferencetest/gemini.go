package inferencetest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

type geminiRequest struct {
	Contents []geminiTurn `json:"contents"`
	Content  *geminiTurn  `json:"content"` // of embedContent
	Requests []struct {   // of batchEmbedContents
		Content *geminiTurn `json:"content"`
	} `json:"requests"`
	Tools []struct {
		Functions []tool `json:"functionDeclarations"`
	} `json:"tools"`
}

type geminiTurn struct {
	Role  string `json:"role"`
	Parts []struct {
		Text   string `json:"text"`
		Result *struct {
			Response json.RawMessage `json:"response"`
		} `json:"functionResponse"`
	} `json:"parts"`
}

// readGemini turns the contents into messages; results of functions become
// messages of their own.
func readGemini(body io.Reader, model, verb string) (request, error) {
	var in geminiRequest
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		return request{}, err
	}
	req := request{Model: model, Stream: verb == "streamGenerateContent"}
	for _, t := range in.Tools {
		req.Tools = append(req.Tools, t.Functions...)
	}
	turns := in.Contents
	if in.Content != nil {
		turns = append(turns, *in.Content)
	}
	for _, r := range in.Requests {
		if r.Content != nil {
			turns = append(turns, *r.Content)
		}
	}
	for _, t := range turns {
		var texts []string
		results := 0
		for _, p := range t.Parts {
			if p.Result != nil {
				results++
				req.Messages = append(req.Messages, message{Role: "tool", Content: quoted(string(p.Result.Response))})
			} else {
				texts = append(texts, p.Text)
			}
		}
		role := t.Role
		switch role {
		case "model":
			role = "assistant"
		case "":
			role = "user"
		}
		if results == 0 || role == "assistant" {
			req.Messages = append(req.Messages, message{Role: role, Content: quoted(strings.Join(texts, "\n"))})
		}
	}
	return req, nil
}

func quoted(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return b
}

// gemini answers as generateContent and streamGenerateContent, whose lines end
// with CRLF.
func gemini(w http.ResponseWriter, req request, turn Turn) {
	in, out := req.promptTokens(), turn.completionTokens()
	chunk := func(finish string, parts ...any) map[string]any {
		candidate := map[string]any{"content": map[string]any{"role": "model", "parts": parts}, "index": 0}
		usage := map[string]any{"promptTokenCount": in, "totalTokenCount": in}
		if finish != "" {
			candidate["finishReason"] = finish
			usage["candidatesTokenCount"], usage["totalTokenCount"] = out, in+out
		}
		return map[string]any{
			"candidates": []any{candidate}, "usageMetadata": usage, "modelVersion": req.Model, "responseId": "script",
		}
	}
	var calls []any
	for _, c := range turn.Calls {
		calls = append(calls, map[string]any{"functionCall": map[string]any{"name": c.Name, "args": json.RawMessage(c.arguments())}})
	}
	if !req.Stream {
		parts := calls
		if turn.Text != "" {
			parts = append([]any{map[string]any{"text": turn.Text}}, calls...)
		}
		reply(w, http.StatusOK, chunk("STOP", parts...))
		return
	}
	s := newStream(w)
	s.newline = "\r\n"
	pieces := words(turn.Text)
	for i, word := range pieces {
		finish := ""
		if i == len(pieces)-1 && calls == nil {
			finish = "STOP"
		}
		s.send("", chunk(finish, map[string]any{"text": word}))
	}
	if calls != nil || pieces == nil {
		s.send("", chunk("STOP", calls...))
	}
}

// countGemini answers countTokens.
func countGemini(w http.ResponseWriter, req request) {
	reply(w, http.StatusOK, map[string]any{"totalTokens": req.promptTokens()})
}

// embedGemini answers embedContent and batchEmbedContents.
func embedGemini(w http.ResponseWriter, req request) {
	var all []any
	for _, m := range req.Messages {
		all = append(all, map[string]any{"values": vector(m.Content)})
	}
	answer := map[string]any{"embeddings": all}
	if len(all) == 1 {
		answer["embedding"] = all[0]
	}
	reply(w, http.StatusOK, answer)
}
