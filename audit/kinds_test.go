package audit

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEventCount(t *testing.T) {
	for _, c := range []struct {
		kind   Kind
		detail map[string]string
		want   uint64
	}{
		{KindDenial, nil, 1},
		{KindDenial, map[string]string{"repeated": "7"}, 7},
		{KindDenial, map[string]string{"more_before": "7"}, 8},
		{KindDenial, map[string]string{"repeated": "0"}, 1},
		{KindDenial, map[string]string{"repeated": "-3"}, 1},
		{KindDenial, map[string]string{"more_before": "many"}, 1},
		{KindDenial, map[string]string{"repeated": "18446744073709551615"}, 1e12},
		{KindDenial, map[string]string{"more_before": "18446744073709551615"}, 1e12 + 1},
		{KindProbe, map[string]string{"repeated": "7"}, 1},
	} {
		assert.Equal(t, c.want, Event{Kind: c.kind, Detail: c.detail}.Count(), "%+v", c)
	}
}
