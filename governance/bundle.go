package governance

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// A Bundle is everything that decides, as one reviewed thing: who may do what
// (policies), which agents belong where (profiles, entities), and what the
// tools are (catalogue). It is plain data: nothing in it is checked before
// [Compile].
type Bundle struct {
	// Policies are Cedar policy files.
	Policies []Source
	// Profiles bind agents to the servers, tools, models, hosts and credentials
	// that are there for them.
	Profiles []Profile
	// Catalog holds the approved tools of each server. A tool that is not in it
	// cannot be called.
	Catalog []Server
	// Entities are agents, users, teams and roles with their attributes and
	// memberships. Everything else is generated.
	Entities []types.Entity
	// Facts are what policies can ask about earlier acts.
	Facts []Fact
	// Tests are golden cases for package policytest, in the JSON that the Cedar
	// CLI's run-tests reads. Compile does not look at them, and they are not in
	// the snapshot's hash.
	Tests []Source

	// Version is higher in a later bundle, and 0 where nobody counts: see
	// [Options.MinVersion]. It is not in the snapshot's hash.
	Version uint64

	findings []Finding // what LoadBundle could not read
	seal     *seal     // of the folder that it was loaded from
}

// A Source is the text of one file.
type Source struct {
	// Name is what positions refer to, such as "policies/slack.cedar".
	Name string
	// Text is what the file holds, such as policies in Cedar's syntax.
	Text string
}

// LoadBundle reads a bundle's folder:
//
//	policies/*.cedar    Cedar policies, each with an @id
//	profiles/*.yaml     one [Profile] a file
//	catalog/*.json      one [Server] a file
//	facts/*.yaml        lists of [Fact]
//	tests/*.json        golden cases for package policytest
//	entities.json       Cedar entities; may be absent
//	bundle.version      a number, see [Bundle.Version]; may be absent
//	bundle.note         who wrote and who reviewed it, see [SignBundle]; may be absent
//
// Any other file in these folders, and any unknown key in these files, is an
// error with its position; all of them are reported at once. A folder that is
// not there, or that holds nothing of this, is an error too: a misspelt path
// would deny everything. The error wraps [ErrBundle].
func LoadBundle(folder fs.FS) (Bundle, error) {
	if _, err := fs.Stat(folder, "."); err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	var b Bundle
	fsys := reader{folder, map[string][sha256.Size]byte{}}
	stray := func(f Finding) { b.findings = append(b.findings, f) }
	err := errors.Join(
		eachFile(fsys, "policies", ".cedar", maxPolicyFile, stray, func(name string, text []byte) {
			b.Policies = append(b.Policies, Source{Name: name, Text: string(text)})
		}),
		eachFile(fsys, "profiles", ".yaml", maxProfileFile, stray, func(name string, text []byte) {
			p, bad := parseProfile(name, text)
			if bad != nil {
				b.findings = append(b.findings, *bad)
				return
			}
			b.Profiles = append(b.Profiles, p)
		}),
		eachFile(fsys, "catalog", ".json", maxCatalogFile, stray, func(name string, text []byte) {
			s, bad := parseCatalog(name, text)
			if bad != nil {
				b.findings = append(b.findings, *bad)
				return
			}
			b.Catalog = append(b.Catalog, s)
		}),
		eachFile(fsys, "facts", ".yaml", maxFactFile, stray, func(name string, text []byte) {
			f, bad := parseFacts(name, text)
			if bad != nil {
				b.findings = append(b.findings, *bad)
				return
			}
			b.Facts = append(b.Facts, f...)
		}),
		eachFile(fsys, "tests", ".json", maxTestFile, stray, func(name string, text []byte) {
			b.Tests = append(b.Tests, Source{Name: name, Text: string(text)})
		}),
	)
	if err != nil {
		return Bundle{}, err
	}
	switch text, err := readFile(fsys, "entities.json", maxEntitiesFile); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Bundle{}, err
	default:
		es, bad := parseEntities("entities.json", text)
		if bad != nil {
			b.findings = append(b.findings, *bad)
		}
		b.Entities = es
	}
	var bad *Finding
	if b.Version, bad, err = readVersion(fsys); err != nil {
		return Bundle{}, err
	}
	if bad != nil {
		b.findings = append(b.findings, *bad)
	}
	b.seal = &seal{digest: fsys.digest()}
	if b.seal.note, err = readFile(folder, SignatureFile, maxSignatureFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Bundle{}, err
	}
	b.seal.print = b.print()
	rep := Report{Findings: b.findings}
	rep.sort()
	if err := rep.Err(); err != nil {
		return Bundle{}, err
	}
	if len(b.Policies)+len(b.Profiles)+len(b.Catalog)+len(b.Entities) == 0 {
		return Bundle{}, fmt.Errorf("%w: the folder holds none of policies/*.cedar, profiles/*.yaml, catalog/*.json and entities.json: is it the right one?", ErrBundle)
	}
	return b, nil
}

// maxTestFile bounds one file of golden cases.
const maxTestFile = 8 << 20

// eachFile calls f for the files of a folder in the order of their names, and
// stray for what is no such file.
func eachFile(fsys fs.FS, dir, ext string, limit int64, stray func(Finding), f func(name string, text []byte)) error {
	entries, err := fs.ReadDir(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBundle, err)
	}
	var errs []error
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if strings.ContainsAny(name, "\n\\") {
			stray(Finding{Code: "stray-file", Severity: SeverityError, File: strconv.Quote(name), Message: "the file's name has a line end or a backslash", Fix: "rename it"})
			continue
		}
		if e.Name()[0] == '.' {
			continue // an editor's or a version control's
		}
		if e.IsDir() || path.Ext(name) != ext {
			stray(Finding{Code: "stray-file", Severity: SeverityError, File: name, Message: "only *" + ext + " files belong here", Fix: "move or rename it"})
			continue
		}
		text, err := readFile(fsys, name, limit)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f(name, text)
	}
	return errors.Join(errs...)
}

func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBundle, name, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%w: %s: larger than %d KiB", ErrBundle, name, limit>>10)
	}
	if r, ok := fsys.(reader); ok {
		r.read(name, text)
	}
	return text, nil
}

// sorted returns the catalogue, facts and profiles by name, so that what a bundle
// means does not depend on the order in which it was put together.
func (b Bundle) sorted() Bundle {
	b.Catalog = slices.Clone(b.Catalog)
	slices.SortStableFunc(b.Catalog, func(x, y Server) int { return strings.Compare(x.Name, y.Name) })
	b.Facts = slices.Clone(b.Facts)
	slices.SortStableFunc(b.Facts, func(x, y Fact) int { return strings.Compare(x.Name, y.Name) })
	b.Profiles = slices.Clone(b.Profiles)
	slices.SortStableFunc(b.Profiles, func(x, y Profile) int { return strings.Compare(x.ID, y.ID) })
	return b
}
