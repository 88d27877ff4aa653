package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// actionTest is what a request with a version that is not current is called in
// the audit log. Detail: "version", "origin", "method", "path".
const actionTest = "test_credential"

var testCommand = actOnSecret("test", "[-path P] [-method M] [SPEC] [-json] STORE OFFICE NAME[@VERSION]", func(fs *flag.FlagSet) func(context.Context, *task, credential.Ref) error {
	var s specFlags
	s.register(fs)
	path := fs.String("path", "/", "what to ask for: something that needs the secret and changes nothing")
	method := fs.String("method", http.MethodGet, "GET or HEAD")
	return func(ctx context.Context, t *task, ref credential.Ref) error {
		if *method != http.MethodGet && *method != http.MethodHead {
			return fmt.Errorf("%w: -method is GET or HEAD", errUsage)
		}
		ref, err := t.pending(ctx, ref)
		if err != nil {
			return err
		}
		spec, err := s.spec()
		if err != nil {
			return err
		}
		if spec == nil {
			if spec, err = t.bound(ctx, ref.Name); err != nil {
				return err
			}
		}
		return t.try(ctx, ref, *spec, *method, *path)
	}
})

// bound returns where the store says that a secret may go.
func (t *task) bound(ctx context.Context, name string) (*credential.BindingSpec, error) {
	b, ok := t.store.(credential.BindingStore)
	if ok {
		spec, bound, err := b.Binding(ctx, name)
		if err != nil {
			return nil, err
		}
		if bound {
			return &spec, nil
		}
	}
	return nil, fmt.Errorf("%w: bind %s, or say -origin or -spec", credential.ErrUnbound, name)
}

// A tried version is what is printed of a test with -json.
type tried struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	Method  string `json:"method"`
	URL     string `json:"url"`
	Status  int    `json:"status"`
	OK      bool   `json:"ok"`
}

// try makes one request that carries the version, as a host would that has it as
// the current one, and says how it was answered.
func (t *task) try(ctx context.Context, ref credential.Ref, spec credential.BindingSpec, method, path string) error {
	target, err := url.Parse(spec.Origin + path)
	if err != nil || !strings.HasPrefix(path, "/") || (target.Scheme != "https" && target.Scheme != "http") {
		return fmt.Errorf("%w: there is no request to %q to be made", errUsage, spec.Origin+path)
	}
	if _, err := binding(spec); err != nil {
		return err
	}
	if err := t.log.Append(ctx, audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: actionTest, Resource: "Credential::" + strconv.Quote(ref.Name), Change: &t.by,
		Detail: map[string]string{"version": strconv.FormatUint(ref.Version, 10), "origin": spec.Origin, "method": method, "path": target.Path},
	}); err != nil {
		return err
	}
	vault, err := credential.NewBroker(only{t.store, ref, spec}, t.log, &credential.BrokerOptions{Binding: binding})
	if err != nil {
		return err
	}
	defer func() { _ = vault.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	lease, err := vault.Lease(ctx, credential.LeaseRequest{
		Actor: audit.Actor{Agent: "twinward-vault", User: t.by.By}, Credential: ref.Name, Origin: spec.Origin, Purpose: "test", MaxUses: 1,
	})
	if err != nil {
		return err
	}
	defer lease.Release()
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %v", errUsage, err)
	}
	resp, err := lease.Transport(nil).RoundTrip(req) // follows no redirect
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // what it says may hold the secret
	_ = resp.Body.Close()
	ok := resp.StatusCode/100 == 2
	about := tried{ref.Name, ref.Version, method, target.String(), resp.StatusCode, ok}
	if err := t.say(about, "%s: %s %s answers %d %s", ref, method, target, resp.StatusCode, http.StatusText(resp.StatusCode)); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s was not accepted", ref)
	}
	return nil
}

// only is a store in which one version is the current one of its name, bound by
// spec, and there is no other version. It can only be read.
type only struct {
	credential.Store
	ref  credential.Ref
	spec credential.BindingSpec
}

func (o only) Binding(_ context.Context, name string) (credential.BindingSpec, bool, error) {
	return o.spec, name == o.ref.Name, nil
}

func (o only) SetBinding(context.Context, string, credential.BindingSpec) error {
	return credential.ErrReadOnly
}

func (o only) Get(ctx context.Context, ref credential.Ref) (credential.Version, credential.Secret, error) {
	if ref.Name != o.ref.Name {
		return o.Store.Get(ctx, ref)
	}
	v, secret, err := o.Store.Get(ctx, o.ref)
	if err == nil && !usable(v.State) {
		secret.Destroy()
		return v, credential.Secret{}, fmt.Errorf("%w: %s is %s", credential.ErrState, o.ref, v.State)
	}
	v.State = credential.StateCurrent
	return v, secret, err
}

func (o only) List(ctx context.Context, name string) ([]credential.Version, error) {
	list, err := o.Store.List(ctx, name)
	var kept []credential.Version
	found := name != o.ref.Name
	for _, v := range list {
		switch {
		case v.Ref == o.ref && !usable(v.State):
			err = errors.Join(err, fmt.Errorf("%w: %s is %s", credential.ErrState, o.ref, v.State))
		case v.Ref == o.ref:
			v.State, found = credential.StateCurrent, true
			kept = append(kept, v)
		case v.Ref.Name != o.ref.Name:
			kept = append(kept, v)
		}
	}
	if err == nil && !found {
		err = fmt.Errorf("%w: %s", credential.ErrUnknown, o.ref)
	}
	return kept, err
}

func usable(s credential.State) bool { return s == credential.StatePending || s.Live() }
