package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// begin counts a command in, so that the session does not record its own end
// before the command's.
func (s *Session) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return ErrEnded
	}
	s.ran++
	s.commands.Add(1)
	return nil
}

// permit decides a command and puts its intent on record. Without an engine,
// having been given the session is the permission.
func (s *Session) permit(ctx context.Context, c *Cmd) (audit.Call, governance.Decision, error) {
	args, err := json.Marshal(struct {
		Program string   `json:"program"`
		Args    []string `json:"args"`
		Dir     string   `json:"dir,omitempty"`
	}{c.Path, c.Args, c.Dir})
	decision := governance.Decision{Decision: audit.Decision{ID: audit.NewID(), Effect: audit.Allow, PolicyHash: s.policyHash()}}
	if err != nil {
		return nil, decision, err
	}
	if s.opts.Engine != nil {
		digest := sha256.Sum256(args)
		d, err := s.opts.Engine.Decide(ctx, governance.Request{
			Actor: s.actor, Action: "exec", Name: s.opts.Name,
			Attrs: map[string]any{"program": c.Path, "args_digest": "sha256:" + hex.EncodeToString(digest[:]), "policy_hash": s.policyHash()},
		})
		decision = d
		if err != nil || !decision.Allowed() {
			return nil, decision, s.refuse(ctx, decision.Decision, args, err)
		}
	}
	call, err := s.log.Begin(ctx, audit.Intent{
		Door: audit.DoorCompute, Action: "exec", Resource: s.resource(), Actor: s.actor, Decision: decision.Decision, Args: args,
	})
	if err != nil {
		decision.Settle(governance.Result{})
		return nil, decision, fmt.Errorf("record the intent: %w", err)
	}
	return call, decision, nil
}

func (s *Session) refuse(ctx context.Context, d audit.Decision, args []byte, cause error) error {
	err := fmt.Errorf("%w: %s (decision %s)", ErrDenied, d.Reason, d.ID)
	if cause != nil {
		err = errors.Join(err, cause)
	}
	if logErr := s.log.Append(ctx, audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorCompute, Action: "exec", Resource: s.resource(), Actor: s.actor, Decision: &d, Args: args,
	}); logErr != nil {
		err = errors.Join(err, fmt.Errorf("record the denial: %w", logErr))
	}
	return err
}
