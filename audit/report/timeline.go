package report

import (
	"maps"
	"slices"
	"time"
)

// A Timeline counts acts in slices of time of equal width.
type Timeline struct {
	// Width is the width of a slice; 0 when nothing was counted.
	Width time.Duration `json:"width_ns"`
	// Slices are in order; those without acts are left out.
	Slices []Slice `json:"slices,omitempty"`
}

// A Slice counts the acts from Start on, for the width of the timeline.
type Slice struct {
	Start   time.Time `json:"start"`
	Allowed uint64    `json:"allowed"`
	Denied  uint64    `json:"denied"`
}

// maxSlices bounds a timeline. When acts spread further, slices become wider.
const maxSlices = 96

var widths = []time.Duration{
	time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour,
	7 * 24 * time.Hour, 28 * 24 * time.Hour, 364 * 24 * time.Hour, 3640 * 24 * time.Hour,
	36400 * 24 * time.Hour,
}

// A histogram is a [Timeline] being counted. The zero value is empty.
type histogram struct {
	level       int // index into widths
	slices      map[int64]*Slice
	first, last int64
}

func (h *histogram) count(t time.Time, denied bool, n uint64) {
	if h.slices == nil {
		h.slices = map[int64]*Slice{}
	}
	i := h.index(t)
	if len(h.slices) == 0 {
		h.first, h.last = i, i
	}
	h.first, h.last = min(h.first, i), max(h.last, i)
	s, ok := h.slices[i]
	if !ok {
		s = &Slice{Start: h.start(i)}
		h.slices[i] = s
	}
	if denied {
		s.Denied += n
	} else {
		s.Allowed += n
	}
	for h.last-h.first >= maxSlices && h.level < len(widths)-1 {
		h.widen()
	}
}

// origin is a Monday, so that weeks begin on one.
const origin = 4 * 24 * 3600

// index and start count seconds: a time.Duration holds 292 years only.
func (h *histogram) index(t time.Time) int64 {
	w := int64(widths[h.level] / time.Second)
	s := t.Unix() - origin
	i := s / w
	if s%w < 0 {
		i--
	}
	return i
}

func (h *histogram) start(i int64) time.Time {
	return time.Unix(i*int64(widths[h.level]/time.Second)+origin, 0).UTC()
}

func (h *histogram) widen() {
	h.level++
	old := h.slices
	h.slices = map[int64]*Slice{}
	for _, o := range old {
		i := h.index(o.Start)
		if len(h.slices) == 0 {
			h.first, h.last = i, i
		}
		h.first, h.last = min(h.first, i), max(h.last, i)
		s, ok := h.slices[i]
		if !ok {
			s = &Slice{Start: h.start(i)}
			h.slices[i] = s
		}
		s.Allowed += o.Allowed
		s.Denied += o.Denied
	}
}

func (h *histogram) timeline() Timeline {
	var t Timeline
	if len(h.slices) == 0 {
		return t
	}
	t.Width = widths[h.level]
	for _, i := range slices.Sorted(maps.Keys(h.slices)) {
		t.Slices = append(t.Slices, *h.slices[i])
	}
	return t
}
