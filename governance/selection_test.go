package governance

import (
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/require"
)

// requireSliced checks that arguments of which only a part is read are refused
// for the same reasons, and that this part is what it is in the whole.
func requireSliced(t testing.TB, at *argType, src string, whole cedarArgs, refused *argError) {
	t.Helper()
	for of := range slicesOf(at) {
		got, err := convertArgs(at, src, of)
		if refused != nil {
			require.NotNil(t, err, src)
			require.Equal(t, refused.Error(), err.Error(), src)
			continue
		}
		require.Nil(t, err, src)
		want := types.RecordMap{}
		for i, f := range at.fields {
			if v, ok := whole.args.Get(types.String(f.name)); ok && of.field(i) {
				want[types.String(f.name)] = v
			}
		}
		require.True(t, types.NewRecord(want).Equal(got.args), "%s: want %v, got %s", src, want, got.args)
		if of.nulls {
			require.True(t, whole.nulls.Equal(got.nulls), src)
		}
		if of.extra {
			require.True(t, whole.extra.Equal(got.extra), src)
		}
	}
}

// slicesOf yields nothing, each part alone, and everything in parts.
func slicesOf(at *argType) func(yield func(*selection) bool) {
	none := func() *selection { return &selection{fields: make([]bool, len(at.fields))} }
	return func(yield func(*selection) bool) {
		all := none()
		all.nulls, all.extra = true, true
		if !yield(none()) || !yield(&selection{nulls: true, extra: true}) {
			return
		}
		for i := range at.fields {
			one := none()
			one.fields[i], all.fields[i] = true, true
			if !yield(one) {
				return
			}
		}
		yield(all)
	}
}
