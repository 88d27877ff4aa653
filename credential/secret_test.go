package credential_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	yamlv3 "go.yaml.in/yaml/v3"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// watch returns a canary and a scrubber that knows it.
func watch(t *testing.T) (string, *credential.Scrubber) {
	t.Helper()
	canary := credentialtest.Canary()
	s := new(credential.Scrubber)
	require.NoError(t, s.Add("canary", credential.NewSecret([]byte(canary))))
	return canary, s
}

func TestNewSecretTakesTheBytes(t *testing.T) {
	b := []byte("some secret bytes")
	s := credential.NewSecret(b)
	assert.Equal(t, make([]byte, len(b)), b, "the caller's bytes are zeroed")
	require.NoError(t, s.Use(func(got []byte) error {
		assert.Equal(t, "some secret bytes", string(got))
		return nil
	}))
	boom := errors.New("boom")
	assert.Equal(t, boom, s.Use(func([]byte) error { return boom }))
}

func TestSecretDestroy(t *testing.T) {
	s := credential.NewSecret([]byte("some secret bytes"))
	other := s
	var kept []byte
	require.NoError(t, s.Use(func(b []byte) error { kept = b; return nil }))
	s.Destroy()
	assert.Equal(t, make([]byte, len(kept)), kept, "the bytes are zeroed in place")
	unused := func([]byte) error { t.Error("called"); return nil }
	assert.ErrorIs(t, other.Use(unused), credential.ErrDestroyed, "copies share the bytes")
	assert.ErrorIs(t, credential.Secret{}.Use(unused), credential.ErrDestroyed)
	assert.ErrorIs(t, credential.NewSecret(nil).Use(unused), credential.ErrDestroyed)
	s.Destroy()
	credential.Secret{}.Destroy()
}

func TestSecretEqual(t *testing.T) {
	secret := func(v string) credential.Secret { return credential.NewSecret([]byte(v)) }
	a := secret("one secret")
	assert.True(t, a.Equal(a))
	assert.True(t, a.Equal(secret("one secret")))
	assert.False(t, a.Equal(secret("two secret")))
	assert.False(t, a.Equal(secret("one secret longer")))
	assert.False(t, credential.Secret{}.Equal(credential.Secret{}), "nothing equals nothing")
	a.Destroy()
	assert.False(t, a.Equal(a))
	assert.False(t, reflect.TypeFor[credential.Secret]().Comparable(), "== does not compile")
}

func TestSecretConcurrently(t *testing.T) {
	a := credential.NewSecret([]byte("one secret"))
	b := credential.NewSecret([]byte("one secret"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				if i%2 == 0 {
					a.Equal(b)
				} else {
					b.Equal(a)
				}
			}
			if i == 7 {
				a.Destroy()
				b.Destroy()
			}
		})
	}
	wg.Wait()
}

// Every way that people print, log, encode or dump a value by accident.
func TestSecretIsNeverSeen(t *testing.T) {
	const canary = "canary-012345678" // 16 bytes: one line of a hex dump
	var scrubber credential.Scrubber
	require.NoError(t, scrubber.Add("canary", credential.NewSecret([]byte(canary))))
	secret := credential.NewSecret([]byte(canary))
	type holder struct {
		Name     string
		Exported credential.Secret
		Pointer  *credential.Secret
		hidden   credential.Secret
		pointer  *credential.Secret
		Map      map[string]credential.Secret
		Slice    []credential.Secret
		Any      any
	}
	h := holder{"name", secret, &secret, secret, &secret, map[string]credential.Secret{"k": secret}, []credential.Secret{secret}, secret}
	memory := credential.NewMemory(map[string]credential.Secret{"k": secret})
	require.NoError(t, memory.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example"}, by))
	lease, err := memory.Lease(t.Context(), credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"})
	require.NoError(t, err)
	values := map[string]any{
		"secret": secret, "pointer": &secret, "holder": h, "holder pointer": &h,
		"slice": []any{secret, &secret}, "map": map[string]any{"k": secret},
		"memory": memory, "lease": lease, "scrubber": memory.Scrubber(), "wrapped": fmt.Errorf("failed with %v", secret),
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			for _, verb := range "vsqdxXbcoOpTUeEfFgGtw%z" {
				for _, flags := range []string{"", "+", "#", "-", " ", "0", "#+ 0-50.3"} {
					fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
				}
			}
			fmt.Fprint(&out, v)
			fmt.Fprintln(&out, v)
			for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
				slog.New(handler).Info("message", "value", v, slog.Any("any", v), slog.Group("group", "in", v))
			}
			for _, marshal := range []func(any) ([]byte, error){
				json.Marshal, yaml.Marshal, xml.Marshal,
				func(v any) ([]byte, error) { return jsonv2.Marshal(v) },
			} {
				b, err := marshal(v)
				fmt.Fprintf(&out, "%s %v\n", b, err)
			}
			fmt.Fprintln(&out, gob.NewEncoder(&out).Encode(v))
			b, err := yamlv3.Marshal(map[string]any{"exported": secret, "pointer": &secret, "holder": struct{ S credential.Secret }{secret}})
			fmt.Fprintf(&out, "%s %v\n", b, err)
			attributes := attribute.NewSet(attribute.Stringer("secret", secret), attribute.String("formatted", fmt.Sprint(v)), attribute.StringSlice("all", []string{fmt.Sprintf("%+v", v)}))
			fmt.Fprintln(&out, attributes.Encoded(attribute.DefaultEncoder()))
			b, err = attributes.MarshalJSON()
			fmt.Fprintf(&out, "%s %v\n", b, err)
			fmt.Fprintln(&out, expvar.Func(func() any { return v }))
			// testify's diff dumps with spew and all methods disabled.
			mock := &recordT{}
			assert.Equal(mock, v, "something else")
			assert.Nil(mock, v)
			assert.Contains(mock, v, "something else")
			out.WriteString(mock.out.String())
			credentialtest.AssertNoLeak(t, &scrubber, out.Bytes())
			// How dumpers show bytes: as a hex dump, as numbers, as Go code.
			for _, form := range []string{"63 61 6e 61", "63, 61, 6e", "99 97 110", "99, 97, 110", "0x63, 0x61", "0x63 0x61", "0X63, 0X61"} {
				assert.NotContains(t, out.String(), form)
			}
		})
	}
	text, err := json.Marshal(h)
	require.NoError(t, err)
	assert.Contains(t, string(text), `"Exported":"[redacted]"`)
	assert.Equal(t, "[redacted]", fmt.Sprintf("%x", secret))
}

func TestSecretIsNotReadBack(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, gob.NewEncoder(&out).Encode(credential.NewSecret([]byte("some secret bytes"))))
	var s credential.Secret
	assert.Error(t, gob.NewDecoder(&out).Decode(&s))
	//lint:ignore SA9005 that nothing can be read into it is the point
	assert.Error(t, json.Unmarshal([]byte(`"[redacted]"`), &s))
}

type recordT struct{ out strings.Builder }

func (r *recordT) Errorf(format string, args ...any) { fmt.Fprintf(&r.out, format, args...) }

// A panic value is printed by the runtime, by rules of its own.
func TestSecretInPanic(t *testing.T) {
	if canary := os.Getenv("TWINWARD_TEST_PANIC"); canary != "" {
		_ = os.Unsetenv("TWINWARD_TEST_PANIC")
		secret := credential.NewSecret([]byte(canary))
		defer func() {
			_ = recover()
			panic(struct{ s credential.Secret }{secret})
		}()
		panic(secret)
	}
	canary, scrubber := watch(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestSecretInPanic$")
	cmd.Env = append(os.Environ(), "TWINWARD_TEST_PANIC="+canary, "GOTRACEBACK=all")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "panic:")
	credentialtest.AssertNoLeak(t, scrubber, out)
}
