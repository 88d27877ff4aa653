package inference

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// anyProvider is the resource of what concerns all backends.
const anyProvider = `Provider::"*"`

// list answers GET /models with the models that policy could let this actor
// invoke. No backend is asked.
func (c *call) list() {
	var (
		asked []*route
		refs  []governance.ToolRef
	)
	for _, rt := range c.routes.listed {
		if rt.backend.Protocol == c.protocol {
			asked = append(asked, rt)
			refs = append(refs, governance.ToolRef{Server: rt.backend.Name, Name: rt.model})
		}
	}
	visible, err := c.engine.Visible(c.ctx, c.actor, actInvoke, refs)
	if err != nil || len(visible) != len(refs) {
		c.opts.Logger.Warn("inference: policy could not say which models are visible", slog.Any("error", err))
		c.refuse(refusal{status: http.StatusForbidden, code: "denied", message: "models cannot be listed"},
			actList, anyProvider, guarded(audit.GuardPolicyError))
		return
	}
	var shown []*route
	for i, rt := range asked {
		if visible[i] != governance.Never {
			shown = append(shown, rt)
		}
	}
	err = c.log.Append(context.WithoutCancel(c.ctx), audit.Event{
		Kind: audit.KindList, Door: audit.DoorModel, Action: actList, Resource: anyProvider, Actor: c.actor,
		Detail: map[string]string{"shown": strconv.Itoa(len(shown)), "of": strconv.Itoa(len(asked))},
	})
	if err != nil {
		c.opts.Logger.Error("inference: a list could not be recorded", slog.Any("error", err))
		unrecorded.write(c.w, c.protocol)
		return
	}
	body, err := json.Marshal(modelList(c.protocol, shown))
	if err != nil { // strings and numbers only: cannot happen
		body = []byte(`{}`)
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(body)
}

// modelList is the list in the shape of the protocol. Times are unknown, and
// zero.
func modelList(p Protocol, shown []*route) map[string]any {
	data := make([]map[string]any, 0, len(shown))
	for _, rt := range shown {
		if p == Anthropic {
			data = append(data, map[string]any{"type": "model", "id": rt.asked, "display_name": rt.asked, "created_at": "1970-01-01T00:00:00Z"})
		} else {
			data = append(data, map[string]any{"id": rt.asked, "object": "model", "created": 0, "owned_by": rt.backend.Name})
		}
	}
	if p != Anthropic {
		return map[string]any{"object": "list", "data": data}
	}
	list := map[string]any{"data": data, "has_more": false, "first_id": nil, "last_id": nil}
	if len(shown) > 0 {
		list["first_id"], list["last_id"] = shown[0].asked, shown[len(shown)-1].asked
	}
	return list
}
