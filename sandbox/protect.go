package sandbox

import (
	"fmt"
	"slices"
	"strings"
)

// DefaultProtect returns what a nil [Filesystem.Protect] stands for when files
// leave a session: settings from which tools of the host start programs without
// being asked, so that a file planted there acts outside. Scripts that a person
// runs on purpose (a Makefile, package.json) are not among them: to run what an
// agent wrote is to trust it.
//
// Besides these, a .git that is a file is refused, and so are the config and
// hooks of a directory that Git takes for a repository by what is in it,
// whatever its name.
func DefaultProtect() []string {
	return []string{
		".git/config", ".git/hooks", ".git/info/attributes", ".git/modules", ".gitconfig",
		".husky", ".pre-commit-config.yaml", ".lefthook.yml", ".envrc", ".env", ".mise.toml", ".tool-versions",
		".mcp.json", ".claude", ".codex", ".cursor", ".gemini", ".opencode", "opencode.json", ".aider.conf.yml",
		".vscode", ".idea", ".devcontainer", ".devcontainer.json", ".nvim.lua", ".exrc", ".dir-locals.el",
		".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", ".cargo", ".bazelrc",
		".bashrc", ".bash_profile", ".bash_login", ".profile", ".zshrc", ".zshenv", ".zprofile", ".inputrc", ".ssh",
	}
}

// A ProtectedError lists what [Session.Export] refused to carry out, because a
// tool of the host would act on it.
type ProtectedError struct {
	// Paths are inside the session, or where they would have been put; at most 100.
	Paths []string
	// Total counts all.
	Total int
}

func (e *ProtectedError) Error() string {
	const few = 5
	text := fmt.Sprintf("%d protected paths, on which tools of the host act: %q", e.Total, e.Paths[:min(few, len(e.Paths))])
	if e.Total > few {
		text += " and more"
	}
	return text + "; look at them and leave them out, or set ExportOptions.AllowProtected"
}

func (e *ProtectedError) add(path string) {
	const limit = 100
	e.Total++
	if len(e.Paths) < limit {
		e.Paths = append(e.Paths, path)
	}
}

// protectList returns what the policy protects.
func (f *Filesystem) protectList() []string {
	if f.Protect == nil {
		return DefaultProtect()
	}
	return f.Protect
}

// isProtected reports whether a path is one of a list or beneath one: an
// absolute entry stands for that path, a relative one for that path in any
// folder. Letter case does not count, as on some file systems it does not.
func isProtected(list []string, path string) bool {
	parts := strings.Split(strings.ToLower(strings.Trim(path, "/")), "/")
	for _, entry := range list {
		want := strings.Split(strings.ToLower(strings.Trim(entry, "/")), "/")
		last := len(parts) - len(want)
		if strings.HasPrefix(entry, "/") {
			last = min(last, 0)
		}
		for at := 0; at <= last; at++ {
			if slices.Equal(parts[at:at+len(want)], want) {
				return true
			}
		}
	}
	return false
}
