package inference

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// anyProvider is the resource of what concerns all backends.
const anyProvider = `Provider::"*"`

// list answers GET /models, and GET /models/M, with the models of the providers
// whose list policy lets this actor see ("list_models"), as far as policy could
// let it invoke them. No backend is asked.
func (c *call) list() {
	var (
		asked  []*route // of each of refs
		refs   []governance.ToolRef
		names  = map[string]bool{}
		listed = map[string]bool{} // providers
	)
	for _, rt := range c.routes.listed {
		if !c.protocol.lists(rt.protocol) || c.kind == kindModel && rt.asked != c.model {
			continue
		}
		for _, t := range rt.targets {
			name := t.backend.Name
			if _, known := listed[name]; !known {
				d, err := c.engine.Decide(c.ctx, governance.Request{Actor: c.actor, Action: actList, Server: name})
				if err != nil {
					c.unlisted(err)
					return
				}
				listed[name] = d.Allowed()
				if !d.Allowed() && !c.notePrivate(d) {
					return
				}
			}
			if listed[name] {
				names[rt.asked] = true
				asked = append(asked, rt)
				refs = append(refs, governance.ToolRef{Server: name, Name: t.model})
			}
		}
	}
	visible, err := c.engine.Visible(c.ctx, c.actor, actInvoke, refs)
	if err != nil || len(visible) != len(refs) {
		c.unlisted(err)
		return
	}
	var shown []*route // one of each name
	for i, rt := range asked {
		if visible[i] != governance.Never && names[rt.asked] {
			names[rt.asked] = false
			shown = append(shown, rt)
		}
	}
	err = c.log.Append(context.WithoutCancel(c.ctx), audit.Event{
		Kind: audit.KindList, Door: audit.DoorModel, Action: actList, Resource: anyProvider, Actor: c.actor,
		Detail: map[string]string{"shown": strconv.Itoa(len(shown)), "of": strconv.Itoa(len(names))}, Trace: c.trace,
	})
	if err != nil {
		c.opts.Logger.Error("inference: a list could not be recorded", slog.Any("error", err))
		unrecorded.write(c.w, c.protocol)
		return
	}
	var answer any = modelList(c.protocol, shown)
	if c.kind == kindModel {
		if len(shown) == 0 {
			noModel(c.model).write(c.w, c.protocol)
			return
		}
		answer = modelEntry(c.protocol, shown[0])
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(encode(answer))
}

// noModel is the answer to who asks for a model that is not there, or that the
// agent must not know about.
func noModel(name string) refusal {
	return refusal{status: http.StatusNotFound, code: "model_not_found", message: fmt.Sprintf("the model %q does not exist", name)}
}

// unlisted refuses a list that policy could not decide.
func (c *call) unlisted(err error) {
	c.opts.Logger.Warn("inference: policy could not say which models are visible", slog.Any("error", err))
	c.refuse(refusal{status: http.StatusForbidden, code: "denied", message: "models cannot be listed"},
		actList, anyProvider, guarded(audit.GuardPolicyError))
}

// notePrivate records that a provider's models were left out of a list. It
// answers the call when that cannot be recorded.
func (c *call) notePrivate(d governance.Decision) bool {
	err := c.log.Append(context.WithoutCancel(c.ctx), audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorModel, Action: d.Action, Resource: d.Resource,
		Actor: c.actor, Decision: &d.Decision, Trace: c.trace,
	})
	if err != nil {
		c.opts.Logger.Error("inference: a denial could not be recorded", slog.Any("error", err))
		unrecorded.write(c.w, c.protocol)
	}
	return err == nil
}

// lists reports whether the list that clients of p get has the models that are
// served in other.
func (p Protocol) lists(other Protocol) bool { return p == other || p.isOpenAI() && other.isOpenAI() }

// modelList is the list in the shape of the protocol.
func modelList(p Protocol, shown []*route) map[string]any {
	data := make([]map[string]any, 0, len(shown))
	for _, rt := range shown {
		data = append(data, modelEntry(p, rt))
	}
	switch p {
	case Gemini:
		return map[string]any{"models": data}
	case Anthropic:
		list := map[string]any{"data": data, "has_more": false, "first_id": nil, "last_id": nil}
		if len(shown) > 0 {
			list["first_id"], list["last_id"] = shown[0].asked, shown[len(shown)-1].asked
		}
		return list
	}
	return map[string]any{"object": "list", "data": data}
}

// modelEntry is one model in the shape of the protocol. Times are unknown, and
// zero.
func modelEntry(p Protocol, rt *route) map[string]any {
	switch p {
	case Gemini:
		return map[string]any{
			"name": modelsPrefix + rt.asked, "displayName": rt.asked,
			"supportedGenerationMethods": []string{"generateContent", "streamGenerateContent", "countTokens"},
		}
	case Anthropic:
		return map[string]any{"type": "model", "id": rt.asked, "display_name": rt.asked, "created_at": "1970-01-01T00:00:00Z"}
	}
	return map[string]any{"id": rt.asked, "object": "model", "created": 0, "owned_by": rt.targets[0].backend.Name}
}
