package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/examples/internal/setup"
)

// A search that finds nothing proves nothing unless it is known to find. With
// -plant N the host hides N decoys, secrets like those of the vault, where the
// agent can read them; the search must then count N.

// The places where a decoy is hidden, each raw and in base64.
const (
	inEnvironment = iota
	inFile
	inResponse
	places
)

// A decoy is one secret that is hidden on purpose.
type decoy struct {
	name   string
	secret credential.Secret
	place  int
	text   string // what is hidden: the secret, or its base64
}

func newDecoys(n int) []decoy {
	var decoys []decoy
	for i := range n {
		token := setup.Token()
		text := token
		if i/places%2 == 1 {
			text = base64.StdEncoding.EncodeToString([]byte(token))
		}
		decoys = append(decoys, decoy{name: fmt.Sprintf("decoy-%d", i+1),
			secret: credential.NewSecret([]byte(token)), place: i % places, text: text})
	}
	return decoys
}

// decoysIn returns the texts to hide in one place.
func decoysIn(decoys []decoy, place int) string {
	var b strings.Builder
	for _, d := range decoys {
		if d.place == place {
			b.WriteString(" " + d.text)
		}
	}
	return b.String()
}

// plantedEnv returns the variable that holds the decoys of the environment.
func plantedEnv(decoys []decoy) []string {
	if text := decoysIn(decoys, inEnvironment); text != "" {
		return []string{"PLANTED=" + text}
	}
	return nil
}

// plantFile hides decoys in a file of the agent's folder.
func plantFile(decoys []decoy, dir string) error {
	text := decoysIn(decoys, inFile)
	if text == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "notes.txt"), []byte(text+"\n"), 0o644)
}

// search reads all that the agent can read and looks for every secret of the
// vault, and for the decoys, in all encodings. It returns how often each was
// seen.
func search(r io.Reader, vault *credential.Broker, decoys []decoy) (map[string]int, error) {
	var planted credential.Scrubber // apart from the vault's, which would hide them from the agent
	for _, d := range decoys {
		if err := planted.Add(d.name, d.secret); err != nil {
			return nil, err
		}
	}
	real := vault.Scrubber().Reader(r)
	both := planted.Reader(real)
	if _, err := io.Copy(io.Discard, both); err != nil {
		return nil, err
	}
	found := real.Found().Names()
	if found == nil {
		found = map[string]int{}
	}
	maps.Copy(found, both.Found().Names())
	return found, nil
}

// A hostFile is a file of the host that the agent must neither read nor change.
type hostFile struct {
	path string
	text []byte
}

func newHostFile(dir string) (hostFile, error) {
	f := hostFile{path: filepath.Join(dir, "host-only.txt"), text: []byte("the host's own: " + setup.Token() + "\n")}
	return f, os.WriteFile(f.path, f.text, 0o644) // readable and in plain sight, but for the walls
}

// untouched returns an error if the file is not as it was.
func (f hostFile) untouched() error {
	now, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, f.text) {
		return errors.New("it was changed")
	}
	return nil
}

// outsidePath is a file that the agent tries to make.
const outsidePath = "/usr/twinward-was-here"

// probes are the attempts to leave the sandbox.
func probes(secret hostFile) []probe {
	return []probe{
		{Step: "example.com", Action: "connect", Target: "https://example.com/"},
		{Step: "raw-address", Action: "connect", Target: "https://93.184.216.34/"},
		{Step: "host-file", Action: "read_file", Target: secret.path},
		{Step: "write-outside", Action: "write_file", Target: outsidePath},
		{Step: "escape", Action: "escape", Target: "/proc/1/root" + secret.path},
	}
}
