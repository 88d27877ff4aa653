package governance

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// VersionFile is the name of the file in a bundle's folder that holds its
// version: one number, in decimal digits, on a line of its own. Signatures are
// about it as about any other file of the bundle.
const VersionFile = "bundle.version"

// maxVersionFile is far above any number.
const maxVersionFile = 64

// ErrOlderBundle is wrapped by the error of [Engine.Reload] and [Engine.Promote]
// about a bundle whose version is below what is asked for: see
// [Options.MinVersion]. What is in force stays in force.
var ErrOlderBundle = errors.New("governance: the bundle is older than what is asked for: reload a later version, or raise its " + VersionFile + " and have it signed again")

// readVersion reads the version of a bundle's folder, 0 when it has none.
func readVersion(fsys fs.FS) (uint64, *Finding, error) {
	text, err := readFile(fsys, VersionFile, maxVersionFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	line := strings.TrimRight(string(text), "\r\n")
	n, err := strconv.ParseUint(line, 10, 63)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != line {
		return 0, &Finding{Code: "syntax", Severity: SeverityError, File: VersionFile, Line: 1, Column: 1,
			Message: fmt.Sprintf("%.20q is no version", line), Fix: "write one number from 1, in decimal digits, higher than that of the bundle before"}, nil
	}
	return n, nil, nil
}

// forward returns an error if putting s into force would be a step back. It is
// asked with e.reload held, so that no other reload comes between.
func (e *Engine) forward(s *Snapshot) error {
	least := e.opts.orDefault().MinVersion
	if least == 0 {
		return nil
	}
	least = max(least, e.current.Load().Version())
	if s.version < least {
		return fmt.Errorf("%w: its version is %d, and at least %d is needed", ErrOlderBundle, s.version, least)
	}
	return nil
}

// Version is that of the bundle, 0 when it has none or the snapshot is nil. A
// host that wants no step back across its own restarts keeps it, and starts
// again with it as [Options.MinVersion].
func (s *Snapshot) Version() uint64 {
	if s == nil {
		return 0
	}
	return s.version
}
