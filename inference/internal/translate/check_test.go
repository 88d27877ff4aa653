package translate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// check reports how a stream breaks the rules of the client's protocol. One
// that ends with an error keeps them up to there.
func check(from Protocol, told []byte) error {
	if from == Messages {
		return checkMessages(told)
	}
	return checkResponses(told)
}

type sent struct {
	name string
	data map[string]any
}

func split(told []byte) ([]sent, error) {
	var list []sent
	text := string(told)
	if text != "" && !strings.HasSuffix(text, "\n\n") {
		return nil, errors.New("it ends within an event")
	}
	for ev := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		if strings.HasPrefix(ev, ":") || ev == "" {
			continue
		}
		name, data, ok := strings.Cut(ev, "\n")
		name, named := strings.CutPrefix(name, "event: ")
		data, is := strings.CutPrefix(data, "data: ")
		if !ok || !named || !is || strings.Contains(data, "\n") {
			return nil, fmt.Errorf("not an event: %q", ev)
		}
		s := sent{name: name}
		if err := json.Unmarshal([]byte(data), &s.data); err != nil {
			return nil, fmt.Errorf("%w in %q", err, data)
		}
		if s.data["type"] != name {
			return nil, fmt.Errorf("type %v under the name %q", s.data["type"], name)
		}
		list = append(list, s)
	}
	return list, nil
}

func checkMessages(told []byte) error {
	list, err := split(told)
	if err != nil {
		return err
	}
	started, closed, stopped, open, next := false, false, false, "", 0.0
	input, blocks := "", 0
	for i, ev := range list {
		if stopped {
			return fmt.Errorf("event %d (%s) after the end", i, ev.name)
		}
		if !started && ev.name != "message_start" && ev.name != "error" && ev.name != "ping" {
			return fmt.Errorf("it starts with %s", ev.name)
		}
		if closed && ev.name != "message_stop" && ev.name != "error" {
			return fmt.Errorf("%s after message_delta", ev.name)
		}
		if strings.HasPrefix(ev.name, "content_block") && ev.data["index"] != next {
			return fmt.Errorf("index %v instead of %v", ev.data["index"], next)
		}
		switch ev.name {
		case "message_start":
			if started {
				return errors.New("it starts twice")
			}
			started = true
		case "content_block_start":
			if open != "" {
				return errors.New("a block starts in a block")
			}
			open, input = ev.data["content_block"].(map[string]any)["type"].(string), ""
			blocks++
		case "content_block_delta":
			delta := ev.data["delta"].(map[string]any)
			switch {
			case open == "text" && delta["type"] == "text_delta" && delta["text"] != "":
				input += delta["text"].(string)
			case open == "tool_use" && delta["type"] == "input_json_delta":
				input += delta["partial_json"].(string)
			default:
				return fmt.Errorf("%v in a block of type %q", delta, open)
			}
		case "content_block_stop":
			if open == "" {
				return errors.New("a block ends that is not open")
			}
			if strings.TrimSpace(input) == "" && open == "tool_use" || input == "" {
				return errors.New("an empty block")
			}
			open = ""
			next++
		case "message_delta":
			if open != "" {
				return errors.New("message_delta in a block")
			}
			closed = true
			reason := ev.data["delta"].(map[string]any)["stop_reason"]
			if reason == nil || ev.data["usage"] == nil {
				return errors.New("message_delta without a reason or usage")
			}
			if reason == "tool_use" && blocks == 0 {
				return errors.New("calls that are not there")
			}
		case "message_stop":
			if !closed {
				return errors.New("message_stop without message_delta")
			}
			stopped = true
		case "error":
			stopped = true
		case "ping":
		default:
			return fmt.Errorf("an unknown event %q", ev.name)
		}
	}
	if len(list) > 0 && !stopped {
		return errors.New("it does not end")
	}
	return nil
}

func checkResponses(told []byte) error {
	list, err := split(told)
	if err != nil {
		return err
	}
	var (
		item, part     map[string]any
		text           string
		index, content = 0.0, 0.0
		ended          bool
		items          []any
	)
	same := func(a, b any) bool {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return string(x) == string(y)
	}
	for i, ev := range list {
		if ended {
			return fmt.Errorf("event %d (%s) after the end", i, ev.name)
		}
		if ev.data["sequence_number"] != float64(i) {
			return fmt.Errorf("sequence number %v of event %d", ev.data["sequence_number"], i)
		}
		if i == 0 && ev.name != "response.created" && ev.name != "error" || i == 1 && ev.name != "response.in_progress" {
			return fmt.Errorf("%s at %d", ev.name, i)
		}
		if at, ok := ev.data["output_index"]; ok && at != index {
			return fmt.Errorf("%s for item %v instead of %v", ev.name, at, index)
		}
		if at, ok := ev.data["content_index"]; ok && at != content {
			return fmt.Errorf("%s for part %v instead of %v", ev.name, at, content)
		}
		if id, ok := ev.data["item_id"]; ok && (item == nil || id != item["id"]) {
			return fmt.Errorf("%s for item %v", ev.name, id)
		}
		name := strings.TrimPrefix(ev.name, "response.")
		switch name {
		case "created", "in_progress":
		case "output_item.added":
			if item != nil {
				return errors.New("an item in an item")
			}
			item, text, content = ev.data["item"].(map[string]any), "", 0
		case "content_part.added":
			if item == nil || item["type"] != "message" || part != nil {
				return errors.New("a part out of place")
			}
			part, text = ev.data["part"].(map[string]any), ""
		case "output_text.delta", "refusal.delta":
			if part == nil || part["type"] != strings.TrimSuffix(name, ".delta") {
				return fmt.Errorf("%s out of place", name)
			}
			text += ev.data["delta"].(string)
		case "function_call_arguments.delta", "custom_tool_call_input.delta":
			if item == nil || !strings.HasPrefix(name, strings.TrimSuffix(item["type"].(string), "_call")) {
				return fmt.Errorf("%s out of place", name)
			}
			text += ev.data["delta"].(string)
		case "output_text.done", "refusal.done", "function_call_arguments.done", "custom_tool_call_input.done":
			for _, f := range []string{"text", "refusal", "arguments", "input"} {
				if v, ok := ev.data[f]; ok && v != text {
					return fmt.Errorf("%s says %q after %q", name, v, text)
				}
			}
		case "content_part.done":
			p := ev.data["part"].(map[string]any)
			if p["text"] != text && p["refusal"] != text || text == "" {
				return fmt.Errorf("a part ends as %v after %q", p, text)
			}
			part = nil
			content++
		case "output_item.done":
			done := ev.data["item"].(map[string]any)
			if item == nil || part != nil || done["id"] != item["id"] || done["status"] != "completed" && done["status"] != "incomplete" {
				return fmt.Errorf("an item ends as %v", done)
			}
			if item["type"] == "function_call" && done["arguments"] != text {
				return fmt.Errorf("arguments %v after %q", done["arguments"], text)
			}
			items = append(items, done)
			item = nil
			index++
		case "completed", "incomplete":
			if item != nil {
				return errors.New("it ends within an item")
			}
			r := ev.data["response"].(map[string]any)
			if r["status"] != name || len(items) > 0 && !same(r["output"], items) {
				return fmt.Errorf("it ends as %v", r)
			}
			ended = true
		case "failed", "error":
			ended = true
		default:
			return fmt.Errorf("an unknown event %q", ev.name)
		}
	}
	if len(list) > 0 && !ended {
		return errors.New("it does not end")
	}
	return nil
}
