package sandbox

import "github.com/twinward-dev/twinward/sandbox/internal/confine"

// Capabilities says which layers this kernel and this user can have.
type Capabilities struct {
	// Missing are the layers that cannot be had; empty means that [Start] works.
	Missing []Layer
	// Reasons says why, for each missing layer.
	Reasons map[Layer]error
	// LandlockABI is the kernel's version of Landlock, 0 for none.
	LandlockABI int
	// Tiers are what can be had, strongest first; empty means none.
	Tiers []Tier
}

// Probe finds out by trying: it builds a room as [Start] does, runs nothing in
// it, and takes it down. It costs as much as a Start.
func Probe() Capabilities {
	missing, abi := confine.Probe()
	c := Capabilities{LandlockABI: abi, Reasons: missing}
	for _, l := range confine.Layers() {
		if missing[l] != nil {
			c.Missing = append(c.Missing, l)
		}
	}
	c.Tiers = tiers(c.Missing, confine.ProbeShared() == nil)
	return c
}
