package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"

	"github.com/twinward-dev/twinward/audit"
)

// A shower shows what a program reaches for, and hands it to the log, if there
// is one.
type shower struct {
	to               io.Writer
	next             audit.Recorder
	allowed, refused atomic.Int64
}

// Begin implements [audit.Recorder].
func (s *shower) Begin(ctx context.Context, in audit.Intent) (audit.Call, error) {
	if in.Action == "connect" {
		s.allowed.Add(1)
		fmt.Fprintf(s.to, "sandbox: allow %s %s%s\n", in.Action, in.Resource, request(in.Args))
	}
	if s.next == nil {
		return unkept{}, nil
	}
	return s.next.Begin(ctx, in)
}

// Append implements [audit.Recorder].
func (s *shower) Append(ctx context.Context, ev audit.Event) error {
	if ev.Decision != nil && ev.Decision.Effect == audit.Deny {
		times, more := int64(1), ""
		if n, err := strconv.ParseInt(ev.Detail["repeated"], 10, 64); err == nil { // said at the end of the session
			times, more = n, fmt.Sprintf(", %d times more", n)
		}
		s.refused.Add(times)
		fmt.Fprintf(s.to, "sandbox: DENY  %s %s%s: %s%s\n", ev.Action, ev.Resource, request(ev.Args), ev.Decision.Reason, more)
	}
	if s.next == nil {
		return nil
	}
	return s.next.Append(ctx, ev)
}

// request returns the method and path, where the door has looked into what was
// asked.
func request(args json.RawMessage) string {
	var r struct{ Method, Path string }
	if json.Unmarshal(args, &r) != nil || r.Method == "" {
		return ""
	}
	return " " + r.Method + " " + strconv.Quote(r.Path)
}

// unkept is a call that nobody asked to keep.
type unkept struct{}

func (unkept) Record() uint64                           { return 0 }
func (unkept) End(context.Context, audit.Outcome) error { return nil }
