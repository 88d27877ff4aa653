package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twinward-dev/twinward/audit"
)

// post records the call of a tool that writes.
func post(log *audit.Log, user, args string) {
	call, err := log.Begin(context.Background(), audit.Intent{
		Door: audit.DoorTool, Action: "slack__post_message", Class: audit.ClassWrite,
		Actor: audit.Actor{Agent: "standup", User: user}, Args: json.RawMessage(args),
		Decision: audit.Decision{ID: "d1", Effect: audit.Allow},
	})
	if err == nil {
		err = call.End(context.Background(), audit.Outcome{Status: audit.StatusOK})
	}
	if err != nil {
		panic(err)
	}
}

// A user asks for erasure: what agents sent for them is gone, and the log still
// verifies.
func ExampleLog_Erase() {
	base, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(base)
	ctx, dir := context.Background(), filepath.Join(base, "log")
	log, err := audit.Open(dir, nil)
	if err != nil {
		panic(err)
	}
	post(log, "ana", `{"channel":"#team","text":"on leave today"}`)
	post(log, "bob", `{"channel":"#team","text":"deploying"}`)

	erased, err := log.Erase(ctx, audit.Subject{User: "ana"}, audit.Change{By: "dpo@example.com", Reason: "request 12"})
	fmt.Println(erased.Values, "value,", erased.Keys, "key, error:", err)
	if err := log.Close(); err != nil {
		panic(err)
	}

	kek, err := audit.LoadKEK(dir + ".kek")
	if err != nil {
		panic(err)
	}
	values, err := audit.OpenValues(ctx, os.DirFS(dir+".values"), kek)
	if err != nil {
		panic(err)
	}
	for r, err := range audit.Scan(ctx, os.DirFS(dir), audit.Filter{}) {
		if err != nil {
			panic(err)
		}
		if r.Intent == nil {
			continue
		}
		d, err := values.Reveal(ctx, r)
		fmt.Printf("record %d for %s: %s, gone: %v\n", r.Seq, r.Actor().User, d.Value, errors.Is(err, audit.ErrGone))
	}
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: log.VerifierKey()})
	fmt.Println(rep.Records, "records verified, error:", err)
	// Output:
	// 1 value, 1 key, error: <nil>
	// record 1 for ana: , gone: true
	// record 3 for bob: {"channel":"#team","text":"deploying"}, gone: false
	// 6 records verified, error: <nil>
}

// An auditor who has only the log's verifier key learns where a message went, and
// not what it said.
func ExampleVerifyDisclosure() {
	base, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(base)
	ctx, dir := context.Background(), filepath.Join(base, "log")
	log, err := audit.Open(dir, nil)
	if err != nil {
		panic(err)
	}
	post(log, "ana", `{"channel":"#team","text":"on leave today"}`)
	if err := log.Close(); err != nil {
		panic(err)
	}

	// The host, which has the values and their key, hands over two texts.
	proof, err := audit.Prove(ctx, os.DirFS(dir), 1)
	if err != nil {
		panic(err)
	}
	var record audit.Record
	if err := json.Unmarshal(proof.Record, &record); err != nil {
		panic(err)
	}
	kek, err := audit.LoadKEK(dir + ".kek")
	if err != nil {
		panic(err)
	}
	values, err := audit.OpenValues(ctx, os.DirFS(dir+".values"), kek)
	if err != nil {
		panic(err)
	}
	whole, err := values.Reveal(ctx, record)
	if err != nil {
		panic(err)
	}
	channel, err := whole.Only("channel")
	if err != nil {
		panic(err)
	}
	disclosed, err := json.Marshal(channel)
	if err != nil {
		panic(err)
	}

	// The auditor.
	proven, err := audit.VerifyProof(proof.Text(), nil, log.VerifierKey())
	if err != nil {
		panic(err)
	}
	d, err := audit.ParseDisclosure(disclosed)
	if err != nil {
		panic(err)
	}
	err = audit.VerifyDisclosure(d, proven.Record)
	fmt.Printf("record %d, %s = %s, error: %v\n", d.Seq, d.Field, d.Value, err)
	// Output: record 1, channel = "#team", error: <nil>
}
