package sandbox

import "github.com/twinward-dev/twinward/sandbox/internal/confine"

// A Tier is a session with less than all layers, for a host that cannot have
// more. It is never chosen but by the caller ([Options.Tier]), and stands in
// [Session.Report] and in the record of the launch.
type Tier = confine.Tier

const (
	// TierFull is the zero Tier: every layer is there.
	TierFull = confine.TierFull
	// TierMaskedProc is for a host in a container that masks parts of its /proc,
	// where the kernel lets nobody mount a fresh one. The session has no /proc but
	// for cpuinfo, meminfo and a few more; everything else stands. Programs that
	// look themselves up (/proc/self, /dev/fd, /dev/stdout, ps) do not find what
	// they look for.
	TierMaskedProc = confine.TierMaskedProc
)

// Tiers returns those that a host can have which lacks nothing but missing,
// strongest first.
func tiers(missing []Layer) []Tier {
	switch {
	case len(missing) == 0:
		return []Tier{TierFull, TierMaskedProc}
	case len(missing) == 1 && missing[0] == LayerProc:
		return []Tier{TierMaskedProc}
	}
	return nil
}
