package sandbox

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

const presetFolder, presetSuffix = "presets", ".yaml"

// Presets returns the names of the policies that come with this package, sorted.
// Each opens what one tool needs and no more; what that is, and why, is said in
// its file, at sandbox/presets/<name>.yaml in the source.
//
// That a preset is read-only keeps programs from changing what is there. It does
// not keep them from telling: the name of a package that is asked for can be a
// message to whoever runs the registry.
func Presets() []string {
	files, err := fs.ReadDir(presetFiles, presetFolder)
	if err != nil {
		panic(err) // embedded
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f.Name(), presetSuffix)
	}
	return names
}

// Preset returns a policy of [Presets], which the caller may change. Use [Join]
// to put several together, and with a policy of your own.
func Preset(name string) (*Policy, error) {
	file := presetFolder + "/" + name + presetSuffix
	text, err := presetFiles.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("sandbox: no preset %q: there are %s", name, strings.Join(Presets(), ", "))
	}
	return LoadPolicy(file, text)
}
