package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

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
	// TierNoNamespaces is for a host that does not let this user have a user
	// namespace (a container with its engine's default profile, a distribution that
	// restricts them). It takes Linux 6.12; where the host is root, CAP_SYS_PTRACE; and
	// a kernel.yama.ptrace_scope of at most 1, which Start tries out. A session is then a group of the host's processes within
	// Landlock, a system call filter, no new privileges and limits, as the host's own
	// user or, when that is root, as a user of the session's own.
	//
	// What holds: only the files of the policy, the workspace and a few of the system
	// can be read or changed; no signal, tracing, shared memory, key or socket of the
	// host; no network but the session's door, which programs reach as a proxy
	// (HTTP_PROXY, HTTPS_PROXY: this process connects their very sockets to it); all
	// processes are ended with the session, also when the host is killed.
	//
	// What does not: paths are the host's, so /sandbox is [Session.Workspace]
	// (HOME), and /tmp is another folder (TMPDIR). That a file or process of the host
	// exists, how large and how old a file is, where a link leads, and the machine's
	// name can be learned; /etc/passwd, group and hosts are the host's own. Programs that know no
	// proxy reach nothing, and none can listen, use UDP, Unix sockets by name, /proc
	// of a process, or watch files. Memory file systems have no bound of their own,
	// max_processes counts what else the host's user runs, a command cannot signal
	// another command, and who kills the session's first process (the kernel, for
	// want of memory) leaves what runs inside confined, without a network, and alive.
	//
	// A policy that asks for what cannot be had here is a [*PolicyError] or a
	// [*LayerError] of Start: exec: strict, devices, programs of rules, tmp_size, a
	// path that is read-only beneath a writable one (protect: [] says that none is
	// wanted).
	TierNoNamespaces = confine.TierNoNamespaces
)

// tiers returns those that a host can have which lacks nothing but missing,
// strongest first.
func tiers(missing []Layer, noNamespaces bool) []Tier {
	var out []Tier
	switch {
	case len(missing) == 0:
		out = []Tier{TierFull, TierMaskedProc}
	case len(missing) == 1 && missing[0] == LayerProc:
		out = []Tier{TierMaskedProc}
	}
	if noNamespaces {
		out = append(out, TierNoNamespaces)
	}
	return out
}

// sharesHost reports whether the session is a group of the host's processes.
func (s *Session) sharesHost() bool { return s.opts.Tier == TierNoNamespaces }

// checkTier refuses what a policy asks for and a tier cannot hold.
func (p *Policy) checkTier(o *Options) error {
	if o == nil || o.Tier != TierNoNamespaces {
		return nil
	}
	var errs []error
	no := func(field, problem, fix string) {
		errs = append(errs, &PolicyError{Field: field, Problem: problem + " in tier " + string(TierNoNamespaces), Fix: fix})
	}
	if p.Filesystem.TmpSize != 0 {
		no("filesystem.tmp_size", "temporary files have no bound of their own", "leave it out")
	}
	if p.Process.Exec != "" {
		no("process.exec", "what was written inside can be mapped as code", "leave it out")
	}
	if len(p.Devices) > 0 {
		no("devices", "only the usual ones are there", "leave them out")
	}
	if p.Inference != nil && p.Inference.Programs != nil {
		no("inference.programs", "nobody can tell which program holds a connection", "leave it out, and decide by a governance engine")
	}
	for i, r := range p.Network.Allow {
		if r.Programs != nil {
			no(fmt.Sprintf("network.allow[%d].programs", i), "nobody can tell which program holds a connection", "leave it out, and decide by a governance engine")
		}
	}
	if o.RecordProbes {
		errs = append(errs, &LayerError{Layer: LayerNet, Step: "record probes", Err: errors.New("there is no network of the session's own to watch"), Hint: "leave RecordProbes out: attempts to connect elsewhere are on record in this tier anyway"})
	}
	return errors.Join(errs...)
}

// makeSide makes the folder of a session that shares the host's tree: what other
// sessions have in a tree of their own.
func (s *Session) makeSide() (err error) {
	if !s.sharesHost() {
		return nil
	}
	if s.side, err = os.MkdirTemp("", "sandbox-side-"); err != nil {
		return err
	}
	// The session's user may be another one, and has to come through.
	if err := os.Chmod(s.side, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(s.side+"/tmp", 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(s.side+"/etc", 0o755); err != nil {
		return err
	}
	authority, err := s.authority()
	if err != nil {
		return err
	}
	ca := authority.PEM()
	var roots []byte
	if path := trustedRoots(); path != "" {
		if roots, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	trust := slices.Concat(roots, []byte("\n"), ca) // the roots may not end in a newline
	return errors.Join(os.WriteFile(s.trustFile(), trust, 0o644), os.WriteFile(s.caFile(), ca, 0o644))
}

// Where the trust store of the session lies, inside.
func (s *Session) trustFile() string { return s.etc(trustFile) }
func (s *Session) caFile() string    { return s.etc(caFile) }

func (s *Session) etc(path string) string {
	if s.sharesHost() {
		return s.side + "/etc/" + filepath.Base(path)
	}
	return path
}

// places returns the home and the temporary folder of programs inside.
func (s *Session) places() (home, tmp string) {
	if s.sharesHost() {
		return s.home, s.side + "/tmp"
	}
	return confine.Home, "/tmp"
}
