package openbao

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/credential"
)

// The members of an entry's data. Bytes that are no text are kept in base64.
const (
	memberValue  = "value"
	memberBase64 = "value_base64"
)

// entry reads what the engine knows of a name. An unknown name has no versions.
func (s *Store) entry(ctx context.Context, name string) (*entry, error) {
	if credential.CheckName(name) != nil {
		return &entry{name: name}, nil // nobody can have put it
	}
	e := &entry{name: name}
	if err := s.readMeta(ctx, e); err != nil {
		return nil, err
	}
	// Read second: states of versions that are not there are never looked at.
	if err := s.readStates(ctx, e); err != nil {
		return nil, err
	}
	return e, nil
}

func (s *Store) readMeta(ctx context.Context, e *entry) error {
	const op = "read the versions"
	a, err := s.session.do(ctx, call{
		op: op, method: http.MethodGet, path: s.path("metadata", s.opts.Folder, e.name), accept: []int{http.StatusNotFound},
	})
	if err != nil {
		return err
	}
	defer a.wipe()
	if a.status == http.StatusNotFound {
		return a.absent(op)
	}
	var in struct {
		Data *struct {
			CurrentVersion uint64                 `json:"current_version"`
			MaxVersions    uint64                 `json:"max_versions"`
			Versions       map[string]versionMeta `json:"versions"`
		} `json:"data"`
	}
	if err := a.decode(op, &in); err != nil {
		return err
	}
	bad := &Error{Op: op, Status: a.status, kind: ErrAnswer}
	if in.Data == nil {
		return bad
	}
	e.newest, e.maxVersions = in.Data.CurrentVersion, in.Data.MaxVersions
	e.versions = make(map[uint64]versionMeta, len(in.Data.Versions))
	for key, meta := range in.Data.Versions {
		number, ok := versionNumber(key)
		if _, err := time.Parse(time.RFC3339Nano, meta.CreatedTime); err != nil || !ok || number > e.newest {
			return bad
		}
		e.versions[number] = meta
	}
	return nil
}

// absent tells "there is no such entry" from "there is no such engine", which
// answer alike but for the words.
func (a *answer) absent(op string) error {
	var in struct {
		Errors []string `json:"errors"`
	}
	if err := a.decode(op, &in); err != nil {
		return err
	}
	if len(in.Errors) > 0 {
		return refused(op, a)
	}
	return nil
}

// A dataAnswer is an entry's data with what the engine says of it.
type dataAnswer[T any] struct {
	Data *struct {
		Data     *T `json:"data"` // nil if it was deleted or destroyed
		Metadata struct {
			CreatedTime string `json:"created_time"`
			Version     uint64 `json:"version"`
		} `json:"metadata"`
	} `json:"data"`
}

func (s *Store) readStates(ctx context.Context, e *entry) error {
	const op = "read the states"
	a, err := s.session.do(ctx, call{
		op: op, method: http.MethodGet, path: s.path("data", s.statesFolder(), e.name), accept: []int{http.StatusNotFound},
	})
	if err != nil {
		return err
	}
	defer a.wipe()
	var in dataAnswer[map[string]stateLine]
	if err := a.decode(op, &in); err != nil {
		return err
	}
	if in.Data == nil {
		return a.absent(op)
	}
	e.statesVersion = in.Data.Metadata.Version
	if in.Data.Data == nil {
		return nil // deleted: as if there were none
	}
	e.states = make(map[uint64]stateLine, len(*in.Data.Data))
	for key, line := range *in.Data.Data {
		number, ok := versionNumber(key)
		if !ok || !slices.Contains(states, line.State) {
			return &Error{Op: op, Status: a.status, kind: ErrAnswer, detail: "the states are not as this package writes them"}
		}
		e.states[number] = line
	}
	return nil
}

var states = []credential.State{
	credential.StatePending, credential.StateCurrent, credential.StatePrevious,
	credential.StateRevoked, credential.StateDestroyed,
}

// writeStates replaces the states by compare-and-swap.
func (s *Store) writeStates(ctx context.Context, e *entry, lines map[uint64]stateLine) error {
	const op = "write the states"
	data := make(map[string]stateLine, len(lines))
	for number, line := range lines {
		data[strconv.FormatUint(number, 10)] = line
	}
	body, err := json.Marshal(map[string]any{
		"options": map[string]uint64{"cas": e.statesVersion},
		"data":    data,
	})
	if err != nil {
		return fmt.Errorf("openbao: a note is not UTF-8: %w", err)
	}
	a, err := s.post(ctx, op, s.path("data", s.statesFolder(), e.name), body)
	if err != nil {
		return err
	}
	a.wipe()
	return nil
}

// post sends a write that may find that somebody else was faster.
func (s *Store) post(ctx context.Context, op, path string, body []byte) (*answer, error) {
	a, err := s.session.do(ctx, call{op: op, method: http.MethodPost, path: path, body: body, accept: []int{http.StatusBadRequest}})
	if err != nil || a.status != http.StatusBadRequest {
		return a, err
	}
	defer a.wipe()
	if a.says("check-and-set parameter did not match") {
		return nil, credential.ErrConflict
	}
	return nil, refused(op, a)
}

// readValue reads the value of one version.
func (s *Store) readValue(ctx context.Context, name string, number uint64, created string) (credential.Secret, error) {
	const op = "read the value"
	a, err := s.session.do(ctx, call{
		op: op, method: http.MethodGet, accept: []int{http.StatusNotFound},
		path: s.path("data", s.opts.Folder, name) + "?version=" + strconv.FormatUint(number, 10),
	})
	if err != nil {
		return credential.Secret{}, err
	}
	defer a.wipe()
	var in dataAnswer[struct {
		Value  text `json:"value"`
		Base64 text `json:"value_base64"`
	}]
	if err := a.decode(op, &in); err != nil {
		return credential.Secret{}, err
	}
	if in.Data == nil || in.Data.Data == nil || in.Data.Metadata.CreatedTime != created {
		// It was destroyed, or made anew, since its versions were read.
		return credential.Secret{}, fmt.Errorf("%w: %s@%d", credential.ErrConflict, name, number)
	}
	value := in.Data.Data.Value
	defer clear(value)
	if encoded := in.Data.Data.Base64; len(encoded) > 0 {
		defer clear(encoded)
		value = make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
		n, err := base64.StdEncoding.Decode(value, encoded)
		if err != nil {
			return credential.Secret{}, &Error{Op: op, Status: a.status, kind: ErrAnswer, detail: "value_base64 is no base64"}
		}
		value = value[:n]
	}
	if len(value) == 0 {
		return credential.Secret{}, &Error{Op: op, Status: a.status, kind: ErrAnswer, detail: "the entry has no member named value"}
	}
	return credential.NewSecret(value), nil
}

// valueBody returns the request that stores a value. The caller wipes it.
func valueBody(secret credential.Secret, after uint64) ([]byte, error) {
	var body []byte
	err := secret.Use(func(b []byte) error {
		if len(b) > credential.MaxLength {
			return credential.ErrLength
		}
		// Large enough never to grow, which would leave a copy behind.
		body = fmt.Appendf(make([]byte, 0, 6*len(b)+128), `{"options":{"cas":%d},"data":{`, after)
		if utf8.Valid(b) {
			body = append(body, `"`+memberValue+`":`...)
			body, _ = jsontext.AppendQuote(body, b) // fails for invalid UTF-8 only
		} else {
			body = append(body, `"`+memberBase64+`":"`...)
			body = append(base64.StdEncoding.AppendEncode(body, b), '"')
		}
		body = append(body, "}}"...)
		return nil
	})
	return body, err
}

// A written version.
type written struct {
	Version     uint64 `json:"version"`
	CreatedTime string `json:"created_time"`
}

func (s *Store) writeValue(ctx context.Context, name string, body []byte) (written, error) {
	const op = "write the value"
	a, err := s.post(ctx, op, s.path("data", s.opts.Folder, name), body)
	if err != nil {
		return written{}, err
	}
	defer a.wipe()
	var in struct {
		Data written `json:"data"`
	}
	if err := a.decode(op, &in); err != nil {
		return written{}, err
	}
	if in.Data.Version == 0 || in.Data.CreatedTime == "" {
		return written{}, &Error{Op: op, Status: a.status, kind: ErrAnswer}
	}
	return in.Data, nil
}

// keepVersions tells the engine how many versions of an entry to keep.
func (s *Store) keepVersions(ctx context.Context, name string, n uint64) error {
	a, err := s.session.do(ctx, call{
		op: "set how many versions are kept", method: http.MethodPost, path: s.path("metadata", s.opts.Folder, name),
		body: fmt.Appendf(nil, `{"max_versions":%d}`, n),
	})
	if err == nil {
		a.wipe()
	}
	return err
}

// destroy removes the value of one version for good.
func (s *Store) destroy(ctx context.Context, ref credential.Ref) error {
	a, err := s.session.do(ctx, call{
		op: "destroy the value", method: http.MethodPost, path: s.path("destroy", s.opts.Folder, ref.Name),
		body: fmt.Appendf(nil, `{"versions":[%d]}`, ref.Version),
	})
	if err == nil {
		a.wipe()
	}
	return err
}

// listFolder returns the keys of a folder, subfolders with a slash.
func (s *Store) listFolder(ctx context.Context, below string) ([]string, error) {
	const op = "list the names"
	// What LIST does, in a method that every proxy lets through.
	a, err := s.session.do(ctx, call{
		op: op, method: http.MethodGet, path: s.path("metadata", s.opts.Folder, below) + "?list=true", accept: []int{http.StatusNotFound},
	})
	if err != nil {
		return nil, err
	}
	defer a.wipe()
	if a.status == http.StatusNotFound {
		return nil, a.absent(op)
	}
	var in struct {
		Data *struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	if err := a.decode(op, &in); err != nil {
		return nil, err
	}
	if in.Data == nil || in.Data.Keys == nil {
		return nil, &Error{Op: op, Status: a.status, kind: ErrAnswer}
	}
	return in.Data.Keys, nil
}
