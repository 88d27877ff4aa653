package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/twinward-dev/twinward/sandbox"
)

// listPresets prints the names of the policies that come with the package.
func listPresets(out io.Writer) (int, error) {
	for _, name := range sandbox.Presets() {
		fmt.Fprintln(out, name)
	}
	return 0, nil
}

// showPreset prints what one of them opens.
func showPreset(out io.Writer, name string) (int, error) {
	p, err := sandbox.Preset(name)
	if err != nil {
		return failed, err
	}
	for _, r := range p.Network.Allow {
		fmt.Fprintln(out, describe(r))
	}
	return 0, nil
}

// describe is a rule in a line.
func describe(r sandbox.Rule) string {
	line := r.Host
	for _, p := range r.Ports {
		line += fmt.Sprintf(" %d", p)
	}
	if r.Served {
		line += " served by the host"
	}
	if r.Access != "" {
		line += " " + string(r.Access)
	}
	for _, h := range r.Rules {
		line += fmt.Sprintf(" %s %s", strings.Join(h.Methods, ","), h.Path)
	}
	return line
}
