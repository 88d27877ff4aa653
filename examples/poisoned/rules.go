package main

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing/fstest"
)

// A guard is what a step is held by, and how it is removed: a file of the rules
// in which one text takes the place of another. Those without a file are removed
// in the host's wiring.
type guard struct {
	name, what     string
	file, from, to string
}

var guards = []guard{
	{name: "argument-policy", what: "the two forbid policies about arguments", file: "bundle/policies/tools.cedar",
		from: "unless {", to: "when { context.args has no_such_argument } unless {"},
	{name: "profile", what: "the profile's list of tools", file: "bundle/profiles/reviewer.yaml",
		from: "[slack_post_message]", to: "[slack_post_message, slack_get_channel_history]"},
	{name: "egress-list", what: "the list of names that the session reaches", file: "sandbox.yaml",
		from: "- host: tools.local", to: "- host: tools.local\n    - {host: example.com, ports: [80], served: true}"},
	{name: "scrubber", what: "the search for secrets in what comes back"},
	{name: "origin-binding", what: "the binding of github's token to github"},
	{name: "pin", what: "the review of what a tool says and takes"},
}

// rules are the bundle and the walls, without the guard that is to be removed.
func (o options) rules() (bundle fs.FS, walls []byte, err error) {
	all := fstest.MapFS{}
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		all[name] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, g := range guards {
		if g.name != o.without || g.file == "" {
			continue
		}
		text := string(all[path.Clean(g.file)].Data)
		if !strings.Contains(text, g.from) {
			return nil, nil, fmt.Errorf("%s does not hold %q", g.file, g.from)
		}
		all[g.file].Data = []byte(strings.ReplaceAll(text, g.from, g.to))
	}
	bundle, err = fs.Sub(all, "bundle")
	return bundle, all["sandbox.yaml"].Data, err
}
