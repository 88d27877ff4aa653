// Package corpustest reads the corpus that comes with cedar-go: thousands of
// generated policy sets with entities, requests, and what Rust Cedar decided
// about them and about the policies' types. It is for tests.
//
// The corpus stands in the module's own archive, which a build of this module
// has anyway, so nothing is copied here (source github.com/cedar-policy/cedar-go,
// Apache-2.0).
package corpustest

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/require"
)

// All is how many cases the corpus of cedar-go v1.9.0 has.
const All = 7750

// A Case is one policy set with its requests.
type Case struct {
	Name           string
	Schema         string
	Policies       *cedar.PolicySet
	Entities       []byte // Cedar's JSON form
	Requests       []Request
	ShouldValidate bool
	// Strict are Rust Cedar's verdicts under strict validation, by policy.
	Strict map[cedar.PolicyID]bool
}

// A Request is one request and what Rust Cedar decided.
type Request struct {
	cedar.Request
	Decision        cedar.Decision
	Reasons, Errors []cedar.PolicyID // sorted
}

// Load reads every nth case, in the order of their names. In a full run
// (TWINWARD_FULL=1) it reads all.
func Load(t testing.TB, nth int) []Case {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "1" {
		nth = 1
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	require.NoError(t, err, "find cedar-go's module")
	dir := strings.TrimSpace(string(out))
	require.NotEmpty(t, dir, "cedar-go's module is not in the module cache: run go mod download")
	unpacked.Do(func() {
		unpacked.files = unpack(t, filepath.Join(dir, "corpus-tests.tar.gz"))
		unpacked.verdicts = unpack(t, filepath.Join(dir, "corpus-tests-validation.tar.gz"))
	})
	files, verdicts := unpacked.files, unpacked.verdicts
	var names []string
	for name := range files {
		if strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".entities.json") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	require.Len(t, names, All, "the corpus has changed")
	var cases []Case
	for i := 0; i < len(names); i += nth {
		cases = append(cases, read(t, names[i], files, verdicts))
	}
	return cases
}

// unpacked is what the tests of one package share.
var unpacked struct {
	sync.Once
	files, verdicts map[string][]byte
}

// uid is an entity in the corpus's explicit form.
type uid struct{ Type, ID string }

func (u uid) entity() cedar.EntityUID {
	return cedar.NewEntityUID(cedar.EntityType(u.Type), cedar.String(u.ID))
}

func read(t testing.TB, name string, files, verdicts map[string][]byte) Case {
	var in struct {
		Schema, Policies, Entities string
		ShouldValidate             bool
		Requests                   []struct {
			Principal, Action, Resource uid
			Context                     cedar.Record
			Decision                    cedar.Decision
			Reason, Errors              []cedar.PolicyID
		}
	}
	require.NoError(t, json.Unmarshal(files[name], &in), name)
	c := Case{
		Name:           strings.TrimSuffix(name, ".json"),
		Schema:         string(files[path.Base(in.Schema)]),
		Entities:       files[path.Base(in.Entities)],
		ShouldValidate: in.ShouldValidate,
		Strict:         map[cedar.PolicyID]bool{},
	}
	var err error
	c.Policies, err = cedar.NewPolicySetFromBytes("policy.cedar", files[path.Base(in.Policies)])
	require.NoError(t, err, name)
	for _, r := range in.Requests {
		slices.Sort(r.Reason)
		slices.Sort(r.Errors)
		c.Requests = append(c.Requests, Request{
			Request:  cedar.Request{Principal: r.Principal.entity(), Action: r.Action.entity(), Resource: r.Resource.entity(), Context: r.Context},
			Decision: r.Decision, Reasons: r.Reason, Errors: r.Errors,
		})
	}
	var v struct {
		PolicyValidation struct {
			PerPolicy map[cedar.PolicyID]struct{ Strict bool }
		}
	}
	require.NoError(t, json.Unmarshal(verdicts[c.Name+".validation.json"], &v), name)
	for id, p := range v.PolicyValidation.PerPolicy {
		c.Strict[id] = p.Strict
	}
	return c
}

// unpack reads a compressed archive into memory, by base name.
func unpack(t testing.TB, file string) map[string][]byte {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		// "._" files are what a Mac's tar adds.
		if h.Typeflag == tar.TypeReg && !strings.HasPrefix(path.Base(h.Name), "._") {
			files[path.Base(h.Name)], err = io.ReadAll(r)
			require.NoError(t, err)
		}
	}
}
