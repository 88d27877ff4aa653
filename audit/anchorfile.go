package audit

import (
	"errors"
	"fmt"
	"path/filepath"
)

// ErrLocalAnchor is returned by [CheckAnchorFile].
var ErrLocalAnchor = errors.New("audit: the log's writer can change the anchor")

// CheckAnchorFile returns an error that wraps [ErrLocalAnchor] if the owner of a
// log's folder could change a file with a checkpoint, or replace a folder above
// it: then it is no anchor ([VerifyOptions.LocalAnchors]). It looks at the owners
// and modes of this machine's files, so it says nothing about copies: of these,
// you must know where they came from. Where it cannot tell, it returns an error.
func CheckAnchorFile(path, logDir string) error {
	path, err := realPath(path)
	if err != nil {
		return fmt.Errorf("%w, as far as can be told: %w", ErrLocalAnchor, err)
	}
	writer, err := ownerOf(logDir)
	if err != nil {
		return fmt.Errorf("%w, as far as can be told: %w", ErrLocalAnchor, err)
	}
	for p := path; ; p = filepath.Dir(p) {
		if err := keepsOut(p, p == path, writer); err != nil {
			return fmt.Errorf("%w: %w", ErrLocalAnchor, err)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
