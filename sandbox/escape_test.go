//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

// launchers are the executors that run the whole corpus.
var launchers = []Launcher{LauncherReexec, LauncherVfork}

// launchedBy returns options that choose an executor.
func launchedBy(launcher Launcher) *Options { return &Options{Launcher: launcher} }

func init() {
	escapeSetID, escapeRights = escape.SetIDArg, escape.PrintRights
	roles["probes"] = func() {
		if err := escape.Serve(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// lay puts everything that probes look for on the host.
func lay(t *testing.T) escape.Target {
	needSandbox(t)
	tg, undo, err := escape.Lay()
	require.NoError(t, err)
	t.Cleanup(undo)
	return tg
}

// A raid is one run of the corpus, or a part of it, in a session.
type raid struct {
	launcher Launcher
	without  []Layer
	only     []string
	exec     ExecMode
	tier     Tier
}

// run returns what the probes found, by name.
func (r raid) run(t *testing.T, tg escape.Target) map[string]escape.Finding {
	t.Helper()
	opts := launchedBy(r.launcher)
	opts.Self, opts.without, opts.Tier = true, r.without, r.tier
	s, err := Start(context.Background(), &Policy{
		Filesystem: Filesystem{ReadOnly: append(SystemPaths(), tg.ReadOnly)},
		Process:    Process{Exec: r.exec},
	}, agent,
		audittest.NewLog(t), opts)
	require.NoError(t, err)
	defer s.Close()
	tg.Work, tg.WorkHost = "/sandbox", s.Workspace()
	if s.sharesHost() {
		tg.Work = s.Workspace()
	}
	env, err := escape.Env(tg, r.only...)
	require.NoError(t, err)
	cmd := s.Command(context.Background(), Self)
	cmd.Env = append(env, roleEnv("probes")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	found, err := escape.ReadFindings(bytes.NewReader(out))
	require.NoError(t, err)
	return found
}

// TestEscapes runs every probe inside a session; none may get through. Run it
// with -v for the table.
func TestEscapes(t *testing.T) {
	tg := lay(t)
	all := escape.Probes()
	require.GreaterOrEqual(t, len(all), 150)
	for _, launcher := range launchers {
		for _, mode := range []ExecMode{"", ExecStrict} {
			t.Run(fmt.Sprintf("launcher=%s/exec=%s", launcher, mode), func(t *testing.T) {
				found := raid{launcher: launcher, exec: mode}.run(t, tg)
				open, accepted := 0, 0
				all := escape.Probes()
				for i, p := range all {
					if p.Group == escape.Code && mode == ExecStrict {
						p.Accepted, all[i].Accepted = "", ""
					}
					f, ok := found[p.Name]
					switch {
					case !ok:
						t.Errorf("%s: the probe did not report", p.Name)
					case f.Open && p.Accepted != "":
						accepted++
					case f.Open:
						open++
						t.Errorf("%s: got through; %s should have stopped it", p.Name, strings.Join(p.Stops, " or "))
					}
				}
				t.Logf("%d of %d probes open, %d accepted, uid %d\n%s", open, len(all), accepted, os.Getuid(), escape.Table(all, found))
			})
		}
	}
}

// TestProbesAreReal runs outside what must fail inside: a probe that cannot
// succeed anywhere proves nothing. Which do depends on this system and its user,
// so only those that succeed everywhere are demanded.
func TestProbesAreReal(t *testing.T) {
	tg := lay(t)
	tg.Work = t.TempDir()
	tg.WorkHost = tg.Work
	for _, p := range escape.Probes() {
		if slices.Contains(realProbes, p.Name) {
			assert.NoError(t, p.Try(tg), p.Name)
		}
	}
}

var realProbes = []string{
	"read a secret of the host", "write in a directory of the host", "write in a read-only tree", "open a read-only file for writing",
	"truncate a read-only file", "follow a symbolic link to a secret", "climb out of the workspace with ..", "follow a link through /proc/self/root",
	"empty a read-only file while opening it", "climb out of a directory that is moved away", "unlink in a read-only tree", "map a read-only file for writing",
	"set times in a read-only tree", "leave a set-id file in the workspace", "make a set-id file at once", "make the host wait for a file of the workspace",
	"use an inherited directory descriptor", "find any inherited descriptor", "change into an inherited directory", "read the host's environment",
	"see a process of the host in /proc", "signal a process of the host", "open a process of the host", "change the limits of a process of the host",
	"attach a shared memory segment of the host", "open a message queue of the host", "list the host's shared memory", "open POSIX shared memory of the host",
	"connect to an abstract socket of the host", "connect to a socket in the host's file system", "learn the host's name", "share the host's user-namespace",
	"connect to a server on the host's loopback", "connect through a mapped address", "connect to the unspecified address", "connect while sending",
	"connect again after a disconnect", "send a datagram to the host's loopback", "see the connections of the host",
	"be without no_new_privs", "find /sys", "find a disk or a device that controls the machine", "execute a program in memory",
}

// removable are the layers that can be left out, each with what else has to go
// so that it has no stand-in: without a network of its own there is nothing to
// listen in; Landlock and an unprivileged filter need no_new_privs.
var removable = map[Layer][]Layer{
	LayerLandlock: {LayerLandlock}, LayerSeccomp: {LayerSeccomp}, LayerCaps: {LayerCaps}, LayerRlimits: {LayerRlimits},
	LayerIPC: {LayerIPC}, LayerUTS: {LayerUTS}, LayerCgroup: {LayerCgroup}, LayerNet: {LayerNet, LayerNetwork},
	LayerNoNewPrivs: {LayerNoNewPrivs, LayerLandlock, LayerSeccomp},
}

// TestEachLayerHolds takes one layer away at a time and runs the corpus again: in
// soak mode all of it, in full mode what the layer is said to stop, in plain mode
// what it must be alone in stopping.
//
// Each layer must be the only thing that stops some probe: one that names it
// alone in the table must get through, and one that names others too must not.
func TestEachLayerHolds(t *testing.T) {
	tg := lay(t)
	all := escape.Probes()
	i := 0
	for layer, without := range removable {
		i++
		t.Run(string(layer), func(t *testing.T) {
			r := raid{launcher: launchers[i%len(launchers)], without: without} // each is as good
			switch {
			case os.Getenv("TWINWARD_SOAK") == "1":
			case os.Getenv("TWINWARD_FULL") == "1":
				for _, p := range all {
					if slices.ContainsFunc(without, func(l Layer) bool { return slices.Contains(p.Stops, string(l)) }) {
						r.only = append(r.only, p.Name)
					}
				}
			default:
				r.only = demanded[layer]
			}
			found := r.run(t, tg)
			var alone []string
			for _, p := range all {
				if p.Accepted != "" {
					continue
				}
				f := found[p.Name]
				others := slices.DeleteFunc(slices.Clone(p.Stops), func(s string) bool { return slices.Contains(without, Layer(s)) })
				if f.Open && slices.Contains(p.Stops, string(layer)) {
					alone = append(alone, p.Name)
				}
				if f.Open && len(others) > 0 {
					t.Errorf("%s: open without %v, although %v should have stopped it", p.Name, without, others)
				}
				if !f.Open && len(others) == 0 && slices.Contains(demanded[layer], p.Name) {
					t.Errorf("%s: still blocked without the layer: %s", p.Name, f.Seen)
				}
			}
			assert.NotEmpty(t, alone, "nothing is stopped by this layer alone")
			for _, name := range demanded[layer] {
				assert.Contains(t, alone, name)
			}
			t.Logf("%d probes are stopped by %s alone: %s", len(alone), layer, strings.Join(alone, "; "))
		})
	}
}

// demanded are probes that a layer alone must be what stops, whatever the kernel.
var demanded = map[Layer][]string{
	LayerLandlock:   {"read a file that only Landlock guards", "signal init"},
	LayerSeccomp:    {"unshare: user namespace", "leave a set-id file in the workspace", "netlink: sock_diag", "gain namespaces of its own"},
	LayerCaps:       {"bind a privileged port"},
	LayerRlimits:    {"dump core"},
	LayerIPC:        {"attach a shared memory segment of the host"},
	LayerUTS:        {"learn the host's name"},
	LayerCgroup:     {"share the host's cgroup-namespace"},
	LayerNet:        {"connect to a server on the host's loopback", "send a datagram to the host's loopback"},
	LayerNoNewPrivs: {"be without no_new_privs"},
}
