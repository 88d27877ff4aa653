package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
)

// This file is root on the host, who has the key that signs the log.

// A forgery makes another log of the host's: from the lines of its only file to
// other lines.
type forgery struct {
	name, says string
	make       func(lines [][]byte, key note.Signer) ([][]byte, error)
}

// forgeries of what lies before the anchored record, all of them signed as the
// real log is.
func forgeries(anchored uint64) []forgery {
	return []forgery{
		{"word", "has somebody else approve a call", func(lines [][]byte, key note.Signer) ([][]byte, error) {
			return rewrite(lines, key, replaceFirst(0, approver, "the boss"))
		}},
		{"blame", "puts an act on another agent", func(lines [][]byte, key note.Signer) ([][]byte, error) {
			return rewrite(lines, key, replaceFirst(0, `"agent":"night-bot"`, `"agent":"watch-bot"`))
		}},
		{"end", "cuts off what came last", func(lines [][]byte, _ note.Signer) ([][]byte, error) {
			return cut(lines, anchored)
		}},
		{"all", "puts another log in its place", func(lines [][]byte, key note.Signer) ([][]byte, error) {
			return rewrite(lines, key, func(_ uint64, line string) string {
				return strings.NewReplacer("night-bot", "lunch-bot", "watch-bot", "other-bot").Replace(line)
			})
		}},
	}
}

// late is a forgery of what came after the anchor. It goes unseen.
func late(anchored uint64) forgery {
	return forgery{"late", "changes what came after the last checkpoint that is kept elsewhere", func(lines [][]byte, key note.Signer) ([][]byte, error) {
		return rewrite(lines, key, replaceFirst(anchored, `"agent":"watch-bot"`, `"agent":"some-bot"`))
	}}
}

// forge writes another log into a folder.
func forge(log, keyFile, to string, f forgery) error {
	key, err := stealKey(keyFile)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(log, audit.SegmentName(1)))
	if err != nil {
		return err
	}
	data = bytes.TrimRight(data, "\x00") // room that the log had not used yet
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	lines := bytes.SplitAfter(whole, []byte("\n"))
	made, err := f.make(lines[:len(lines)-1], key)
	if err != nil {
		return fmt.Errorf("forging %s: %w", f.name, err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, audit.SegmentName(1)), bytes.Join(made, nil), 0o600)
}

// stealKey reads the key that a host keeps beside its log.
func stealKey(path string) (note.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "PRIVATE+KEY+") {
			return note.NewSigner(strings.TrimSpace(line))
		}
	}
	return nil, errors.New("there is no key in it")
}

var errNothing = errors.New("there was nothing to change")

// replaceFirst changes the first record after number n that holds a text.
func replaceFirst(n uint64, from, to string) func(uint64, string) string {
	done := false
	return func(seq uint64, line string) string {
		if done || seq <= n || !strings.Contains(line, from) {
			return line
		}
		done = true
		return strings.Replace(line, from, to, 1)
	}
}

// rewrite passes each record through change, and makes and signs all checkpoints
// anew.
func rewrite(lines [][]byte, key note.Signer, change func(seq uint64, line string) string) ([][]byte, error) {
	var made [][]byte
	var hashes []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, n := range indexes {
			out[i] = hashes[n]
		}
		return out, nil
	})
	records, changed := uint64(0), 0
	for _, line := range lines {
		if !bytes.HasPrefix(line, []byte(`{"checkpoint":`)) {
			text := strings.TrimSuffix(string(line), "\n")
			other := change(records+1, text)
			if other != text {
				changed++
			}
			more, err := tlog.StoredHashes(int64(records), []byte(other), read)
			if err != nil {
				return nil, err
			}
			hashes = append(hashes, more...)
			records++
			made = append(made, []byte(other+"\n"))
			continue
		}
		var held struct{ Checkpoint string }
		if err := json.Unmarshal(line, &held); err != nil {
			return nil, err
		}
		body, _, _ := strings.Cut(held.Checkpoint, "\n\n")
		parts := strings.Split(body, "\n") // origin, size, root, and what may follow
		root, err := tlog.TreeHash(int64(records), read)
		if err != nil {
			return nil, err
		}
		if records == 0 {
			made = append(made, line) // the first says nothing of any record
			continue
		}
		parts[2] = root.String()
		signed, err := note.Sign(&note.Note{Text: strings.Join(parts, "\n") + "\n"}, key)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(string(signed))
		if err != nil {
			return nil, err
		}
		made = append(made, fmt.Appendf(nil, "{\"checkpoint\":%s}\n", text))
	}
	if changed == 0 {
		return nil, errNothing
	}
	return made, nil
}

// cut ends the log with the last checkpoint before record n.
func cut(lines [][]byte, n uint64) ([][]byte, error) {
	records, end := uint64(0), 0
	for i, line := range lines {
		if !bytes.HasPrefix(line, []byte(`{"checkpoint":`)) {
			records++
		} else if records > 0 && records < n {
			end = i + 1
		}
	}
	if end == 0 {
		return nil, errNothing
	}
	return lines[:end], nil
}
