package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// An auditor is on another machine: its own folder, as root also its own user, and
// of the host nothing but the verifier keys that it pinned when the logs began,
// the checkpoints that it has kept of them, and the copies that it is given. All
// that it does is run twinward-audit.
type auditor struct {
	dir, bin string
	keys     map[string]string // by log
	as       *syscall.SysProcAttr
}

func newAuditor(dir, bin string) (*auditor, error) {
	a := &auditor{dir: dir, bin: bin, keys: map[string]string{}, as: otherUser()}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return a, a.own(dir)
}

// own gives what lies in the auditor's folder to the auditor.
func (a *auditor) own(path string) error {
	if a.as == nil {
		return nil
	}
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
}

func (a *auditor) path(name string) string { return filepath.Join(a.dir, name) }

// take brings a copy of a log here, under a name.
func (a *auditor) take(log, name string) error {
	if err := os.RemoveAll(a.path(name)); err != nil {
		return err
	}
	return errors.Join(copyFolder(log, a.path(name)), a.own(a.path(name)))
}

// run runs twinward-audit. An error is its last words.
func (a *auditor) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(a.bin, "twinward-audit"), args...)
	cmd.Dir, cmd.SysProcAttr, cmd.Env = a.dir, a.as, []string{"LANG=C.UTF-8"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = errors.New(strings.TrimPrefix(strings.TrimSpace(errs.String()), "twinward-audit: "))
	}
	return out.Bytes(), err
}

// anchor fetches a log and keeps its newest checkpoint.
func (a *auditor) anchor(ctx context.Context, log, dir string) error {
	if err := a.take(dir, "fetched"); err != nil {
		return err
	}
	_, err := a.run(ctx, "anchor", "-key", a.keys[log], "-o", log+".anchor", "fetched")
	return err
}

// verdict is what twinward-audit verify -json says, as far as it is needed here.
type verdict struct {
	Verified bool     `json:"verified"`
	Error    string   `json:"error"`
	Records  uint64   `json:"records"`
	Anchored uint64   `json:"anchored"`
	Root     string   `json:"root"`
	Torn     int64    `json:"torn_bytes"`
	Open     []uint64 `json:"open"`
}

// verify verifies a copy that was taken, with the checkpoints that were kept or
// without. What does not verify is no error here.
func (a *auditor) verify(ctx context.Context, log, name string, anchored bool) (v verdict, err error) {
	args := []string{"verify", "-json", "-key", a.keys[log]}
	if anchored {
		args = append(args, "-anchor-copy", log+".anchor")
	}
	out, err := a.run(ctx, append(args, name)...)
	if unreadable := json.Unmarshal(out, &v); unreadable != nil {
		return v, errors.Join(err, unreadable)
	}
	return v, nil
}

// quarter is what twinward-audit report -json says, as far as it is needed here.
type quarter struct {
	Agents []struct {
		Name        string `json:"name"`
		Operations  []row  `json:"operations"`
		Authorities []chain
		count
	} `json:"agents"`
	OpenRows struct {
		List []struct {
			Origin string
			Record struct {
				Seq    uint64
				Intent struct {
					Action string
					Actor  struct{ Agent string }
				}
			}
		}
	} `json:"open_rows"`
}

type count struct{ Done, Failed, Cancelled, Open uint64 }

func (c count) allowed() uint64 { return c.Done + c.Failed + c.Cancelled + c.Open }

// A row is one operation of an agent.
type row struct {
	Door, Action string
	Authorities  []int
	count
}

// A chain is who stands behind some acts.
type chain struct {
	Owner, Profile string
	Registered     *act
	PolicyHash     string `json:"policy_hash"`
	Deployed       *act
	Approvals      []struct {
		By    string
		Calls uint64
	}
	Credentials []struct {
		Name           string
		Bound, Rotated *act
	}
	Missing []string
	Acts    uint64
}

type act struct{ Action, By, Reason string }

// report has the quarter of both logs written as a page, and returns it as data.
func (a *auditor) report(ctx context.Context, page string, now time.Time, logs map[string]string) (q quarter, err error) {
	first := time.Date(now.Year(), now.Month()-(now.Month()-1)%3, 1, 0, 0, 0, 0, time.UTC)
	args := []string{"report", "-from", first.Format(time.DateOnly), "-to", first.AddDate(0, 3, 0).Format(time.DateOnly),
		"-title", fmt.Sprintf("Quarter %d of %d", (first.Month()+2)/3, first.Year())}
	var copies []string
	for log, name := range logs {
		args = append(args, "-key", a.keys[log], "-anchor-copy", log+".anchor")
		copies = append(copies, name)
	}
	if _, err := a.run(ctx, append(append(args, "-o", page), copies...)...); err != nil {
		return q, err
	}
	out, err := a.run(ctx, append(append(args, "-json"), copies...)...)
	if err != nil {
		return q, err
	}
	return q, json.Unmarshal(out, &q)
}

// approvable is the action that a person has to agree to.
const approvable = "slack__announce"

// broken says what is wrong with the chain of authorisation of a row, or of the
// acts that it does not account for.
func (q quarter) broken() (wrongs []string, rows int) {
	for _, agent := range q.Agents {
		var acts, approved, announced uint64
		for _, c := range agent.Authorities {
			acts += c.Acts
			for _, a := range c.Approvals {
				approved += a.Calls
			}
			for _, what := range c.Missing {
				wrongs = append(wrongs, agent.Name+": "+what)
			}
			if c.Owner == "" || c.Profile == "" || c.Registered == nil || c.PolicyHash == "" || c.Deployed == nil {
				wrongs = append(wrongs, fmt.Sprintf("%s: %d acts have a chain with a gap", agent.Name, c.Acts))
			}
		}
		if acts != agent.allowed() {
			wrongs = append(wrongs, fmt.Sprintf("%s: %d acts, %d of them with a chain", agent.Name, agent.allowed(), acts))
		}
		for _, r := range agent.Operations {
			if r.allowed() == 0 {
				continue
			}
			rows++
			if len(r.Authorities) == 0 {
				wrongs = append(wrongs, fmt.Sprintf("%s: the row %s has no chain", agent.Name, r.Action))
			}
			if r.Action == approvable {
				announced += r.allowed()
			}
		}
		if approved != announced {
			wrongs = append(wrongs, fmt.Sprintf("%s: %d announcements, %d of them approved", agent.Name, announced, approved))
		}
	}
	return wrongs, rows
}
