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

// A console shows what a program reaches for, and hands it to the log, if there
// is one.
type console struct {
	to               io.Writer
	next             audit.Recorder
	allowed, refused atomic.Int64
}

// Begin implements [audit.Recorder].
func (c *console) Begin(ctx context.Context, in audit.Intent) (audit.Call, error) {
	if in.Action == "connect" {
		c.allowed.Add(1)
		fmt.Fprintf(c.to, "sandbox: allow %s %s%s\n", in.Action, in.Resource, request(in.Args))
	}
	if c.next == nil {
		return unrecorded{}, nil
	}
	return c.next.Begin(ctx, in)
}

// Append implements [audit.Recorder].
func (c *console) Append(ctx context.Context, ev audit.Event) error {
	if ev.Decision != nil && ev.Decision.Effect == audit.Deny {
		times, more := int64(1), ""
		if n, err := strconv.ParseInt(ev.Detail["repeated"], 10, 64); err == nil { // said at the end of the session
			times, more = n, fmt.Sprintf(", %d times more", n)
		}
		c.refused.Add(times)
		fmt.Fprintf(c.to, "sandbox: DENY  %s %s%s: %s%s\n", ev.Action, ev.Resource, request(ev.Args), ev.Decision.Reason, more)
	}
	if c.next == nil {
		return nil
	}
	return c.next.Append(ctx, ev)
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

// unrecorded is a call that nobody asked to keep.
type unrecorded struct{}

func (unrecorded) Record() uint64                           { return 0 }
func (unrecorded) End(context.Context, audit.Outcome) error { return nil }
