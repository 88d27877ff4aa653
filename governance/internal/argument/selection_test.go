package argument

import (
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/require"
)

// requireSliced checks that arguments of which only a part is read are refused
// for the same reasons, and that this part is what it is in the whole.
func requireSliced(t testing.TB, at *Type, src string, whole Values, refused *Error) {
	t.Helper()
	for of := range slicesOf(at) {
		got, err := Convert(at, src, of)
		if refused != nil {
			require.NotNil(t, err, src)
			require.Equal(t, refused.Error(), err.Error(), src)
			continue
		}
		require.Nil(t, err, src)
		want := types.RecordMap{}
		for i, f := range at.Fields {
			if v, ok := whole.Args.Get(types.String(f.Name)); ok && of.field(i) {
				want[types.String(f.Name)] = v
			}
		}
		require.True(t, types.NewRecord(want).Equal(got.Args), "%s: want %v, got %s", src, want, got.Args)
		if of.Nulls {
			require.True(t, whole.Nulls.Equal(got.Nulls), src)
		}
		if of.Extra {
			require.True(t, whole.Extra.Equal(got.Extra), src)
		}
	}
}

// slicesOf yields nothing, each part alone, and everything in parts.
func slicesOf(at *Type) func(yield func(*Selection) bool) {
	none := func() *Selection { return &Selection{Fields: make([]bool, len(at.Fields))} }
	return func(yield func(*Selection) bool) {
		all := none()
		all.Nulls, all.Extra = true, true
		if !yield(none()) || !yield(&Selection{Nulls: true, Extra: true}) {
			return
		}
		for i := range at.Fields {
			one := none()
			one.Fields[i], all.Fields[i] = true, true
			if !yield(one) {
				return
			}
		}
		yield(all)
	}
}
