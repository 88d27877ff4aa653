package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// Bounds of a copy that says nothing of its own.
const (
	defaultCopyBytes   = 1 << 30
	defaultCopyEntries = 100_000
)

// CopyOptions bound what [Session.Import] and [Session.Export] copy. Nil is the
// zero CopyOptions.
type CopyOptions struct {
	// MaxBytes bounds the sizes of all files together, and MaxEntries how many
	// files and folders there are. Zero means 1 GiB and 100,000.
	MaxBytes   int64
	MaxEntries int
	// SkipOthers leaves links, sockets, pipes and devices out, and says so in
	// [Copied]. Without it they are an error.
	SkipOthers bool
}

// ExportOptions are what can be left out of [Session.Export].
type ExportOptions struct {
	CopyOptions
	// AllowProtected takes along what the policy protects. The record of the
	// export names it.
	AllowProtected bool
}

// Copied says what was copied.
type Copied struct {
	Files int   // and folders are not counted
	Bytes int64 // of all files
	// Skipped are the paths that were left out, relative to what was copied.
	Skipped []string
	// Protected are the protected paths that were taken along.
	Protected []string
}

var (
	// ErrFileKind is wrapped by the error of a copy that found something that is
	// neither a regular file nor a folder.
	ErrFileKind = errors.New("neither a regular file nor a directory")
	// ErrFileName is wrapped when a name holds control characters, a backslash or
	// something that changes the direction of text, or is not UTF-8.
	ErrFileName = errors.New("its name cannot be shown to people")
	// ErrFileLimit is wrapped when there is more than the options allow.
	ErrFileLimit = errors.New("more than the options of the copy allow")
	// ErrWorkspace is wrapped when the workspace cannot be used or is gone.
	ErrWorkspace = errors.New("the workspace cannot be used")
)

// Import copies a file or folder of the host into the workspace. dst is a path
// inside, under /sandbox, or relative to it; folders that lead to it are made.
// What is there already is replaced file by file.
//
// Links are not followed on either side: one in src, or in the way to dst, is an
// error. Only the way to src itself is the caller's own. What was copied belongs
// to the session's user, and is writable for that user only. The copy is on
// record before it begins, and its end before Import returns.
func (s *Session) Import(ctx context.Context, dst, src string, opts *CopyOptions) (Copied, error) {
	return s.transfer(ctx, transfer{action: "import", from: src, to: dst, inward: true}, opts)
}

// ImportFS is [Session.Import] of a file system, such as one that is embedded in
// the program. dst is where its root is to be.
func (s *Session) ImportFS(ctx context.Context, dst string, src fs.FS, opts *CopyOptions) (Copied, error) {
	return s.transfer(ctx, transfer{action: "import", from: "fs.FS", to: dst, inward: true, fsys: src}, opts)
}

// Export copies a file or folder of the workspace to the host, while programs of
// the session may go on changing it. src is a path inside, under /sandbox, or
// relative to it. dst is a path of the host, whose folder must exist. What is at
// dst already is replaced file by file, and only once everything was copied
// beside it and looked at: an error that is met before that leaves dst as it was.
//
// What an agent made is not to act outside by itself. No link is followed on
// either side, but for the caller's own in the way to dst; there are only regular
// files and folders, no set-id bits, nothing that others may write, no name that
// is not what it seems. A path that the policy protects is a [*ProtectedError].
func (s *Session) Export(ctx context.Context, src, dst string, opts *ExportOptions) (Copied, error) {
	if opts == nil {
		opts = &ExportOptions{}
	}
	return s.transfer(ctx, transfer{action: "export", from: src, to: dst, allowProtected: opts.AllowProtected}, &opts.CopyOptions)
}

// A transfer is one copy between host and workspace.
type transfer struct {
	action         string
	from, to       string
	inward         bool
	fsys           fs.FS // what to import, nil for the path from
	allowProtected bool
	limits         CopyOptions
}

func (s *Session) transfer(ctx context.Context, t transfer, opts *CopyOptions) (Copied, error) {
	if opts != nil {
		t.limits = *opts
	}
	if t.limits.MaxBytes <= 0 {
		t.limits.MaxBytes = defaultCopyBytes
	}
	if t.limits.MaxEntries <= 0 {
		t.limits.MaxEntries = defaultCopyEntries
	}
	done, err := s.transferOnRecord(ctx, t)
	if err != nil {
		return done, fmt.Errorf("sandbox: %s %s to %s: %w", t.action, t.from, t.to, err)
	}
	return done, nil
}

func (s *Session) transferOnRecord(ctx context.Context, t transfer) (done Copied, err error) {
	ctx, release, err := s.holdWorkspace(ctx)
	if err != nil {
		return done, err
	}
	defer release()
	args, err := json.Marshal(struct {
		From  string `json:"from"`
		To    string `json:"to"`
		Allow bool   `json:"allow_protected,omitempty"`
	}{t.from, t.to, t.allowProtected})
	if err != nil {
		return done, err
	}
	call, err := s.log.Begin(ctx, audit.Intent{
		Door: audit.DoorCompute, Action: t.action, Resource: s.resource(), Actor: s.actor, Args: args,
		Decision: audit.Decision{ID: audit.NewID(), Effect: audit.Allow, PolicyHash: s.policyHash()},
	})
	if err != nil {
		return done, fmt.Errorf("record the intent: %w", err)
	}
	done, err = s.copyFiles(ctx, t)
	out := audit.Outcome{Status: audit.StatusOK, Bytes: done.Bytes}
	var refused *ProtectedError
	switch {
	case err == nil:
		out.Checks = protectedChecks(done.Protected)
	case errors.As(err, &refused):
		out.Status, out.ErrorCode, out.Checks = audit.StatusFailed, "protected-paths", protectedChecks(refused.Paths)
	case ctx.Err() != nil:
		out.Status, out.ErrorCode = audit.StatusCancelled, "cancelled"
	default:
		out.Status, out.ErrorCode = audit.StatusFailed, copyCode(err)
	}
	if logErr := call.End(context.WithoutCancel(ctx), out); logErr != nil {
		err = errors.Join(err, fmt.Errorf("record the outcome: %w", logErr))
	}
	return done, err
}

// copyCode is the word for an error in the record.
func copyCode(err error) string {
	for _, known := range []struct {
		err  error
		code string
	}{{ErrFileKind, "not-a-file"}, {ErrFileName, "file-name"}, {ErrFileLimit, "too-large"}, {ErrWorkspace, "no-workspace"}} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return "not-copied"
}

// protectedChecks name a few of the paths, as a record is small.
func protectedChecks(paths []string) []string {
	const few, long = 10, 256
	var out []string
	for _, p := range paths[:min(few, len(paths))] {
		if len(p) > long {
			p = p[:long] + "…"
		}
		out = append(out, "protected:"+p)
	}
	return out
}

// holdWorkspace keeps the workspace in place until release is called. The
// context that it returns ends with the session. One of the host, or one that was
// kept, can be used after the session's end as well.
func (s *Session) holdWorkspace(ctx context.Context) (context.Context, func(), error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		select {
		case <-s.done:
		default:
			return nil, nil, ErrEnded
		}
		if s.ownWorkspace && !s.kept {
			return nil, nil, ErrEnded
		}
		return ctx, func() {}, nil
	}
	s.commands.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrEnded) })
	return ctx, func() { stop(); cancel(nil); s.commands.Done() }, nil
}

// insidePath returns a path of the workspace, relative to it.
func insidePath(p string) (string, error) {
	const home = "/sandbox"
	rel := p
	if strings.HasPrefix(p, "/") {
		if p != home && !strings.HasPrefix(p, home+"/") {
			return "", fmt.Errorf("%w: %s is not under %s", fs.ErrInvalid, p, home)
		}
		rel = strings.TrimPrefix(strings.TrimPrefix(p, home), "/")
	}
	if rel == "" {
		rel = "."
	}
	if rel = path.Clean(rel); !fs.ValidPath(rel) {
		return "", fmt.Errorf("%w: %s leads out of %s", fs.ErrInvalid, p, home)
	}
	return rel, nil
}
