//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// discard is a log that keeps nothing, so that only the sandbox is measured.
type discard struct{}

func (discard) Begin(context.Context, audit.Intent) (audit.Call, error) { return discard{}, nil }
func (discard) Append(context.Context, audit.Event) error               { return nil }
func (discard) Record() uint64                                          { return 0 }
func (discard) End(context.Context, audit.Outcome) error                { return nil }

// A lane is one side of a comparison.
type lane struct {
	name  string
	every int // it runs in every so many rounds; zero means each
	run   func(b *testing.B) time.Duration
	took  []time.Duration
}

// timed measures the whole of f.
func timed(f func(b *testing.B)) func(b *testing.B) time.Duration {
	return func(b *testing.B) time.Duration {
		began := time.Now()
		f(b)
		return time.Since(began)
	}
}

// quantile returns the p-th part of what was measured, in milliseconds.
func (l *lane) quantile(p float64) float64 {
	slices.Sort(l.took)
	return l.took[int(float64(len(l.took)-1)*p)].Seconds() * 1e3
}

// alternate runs the lanes in turns, so that a noisy machine moves all of them, in
// a new order each time, as the kernel goes on with the end of one while the next
// begins, and reports the median and the tenth of a hundred of each, and how many times
// the median of the last lane the others have. One operation is one alternation
// of so many rounds.
func alternate(b *testing.B, rounds int, lanes ...*lane) {
	b.Helper()
	for _, l := range lanes {
		l.run(b) // warms up
	}
	for b.Loop() {
		for i := range rounds {
			for _, j := range rand.Perm(len(lanes)) {
				if l := lanes[j]; l.every == 0 || i%l.every == 0 {
					l.took = append(l.took, l.run(b))
				}
			}
		}
	}
	last := lanes[len(lanes)-1]
	for _, l := range lanes {
		b.ReportMetric(l.quantile(0.5), l.name+"-ms")
		b.ReportMetric(l.quantile(0.1), l.name+"-p10-ms")
		if l != last {
			b.ReportMetric(l.quantile(0.5)/last.quantile(0.5), l.name+"-x-"+last.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// launched starts a session with all layers, runs /bin/true in it and ends it.
func launched(opts *Options) func(b *testing.B) {
	return func(b *testing.B) {
		s, err := Start(context.Background(), nil, agent, discard{}, opts)
		require.NoError(b, err)
		require.NoError(b, s.Command(context.Background(), "/bin/true").Run())
		require.NoError(b, s.Close())
	}
}

// needPeer skips a benchmark where what it compares with is missing.
func needPeer(b *testing.B, program string) {
	b.Helper()
	if _, err := exec.LookPath(program); err != nil {
		b.Skipf("%v: .ci/bench installs it", err)
	}
}

// BenchmarkLaunch compares with bubblewrap, started from Go, which is given the
// same files and all of its namespaces, and has no Landlock, no seccomp filter
// and no network.
func BenchmarkLaunch(b *testing.B) {
	needSandbox(b)
	needPeer(b, "bwrap")
	var lanes []*lane
	for _, l := range launchers {
		lanes = append(lanes, &lane{name: string(l), run: timed(launched(&Options{Launcher: l}))})
	}
	args := []string{"--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"}
	for _, path := range SystemPaths() {
		args = append(args, "--ro-bind-try", path, path)
	}
	args = append(args, "--bind", b.TempDir(), "/sandbox", "--chdir", "/sandbox", "/bin/true")
	lanes = append(lanes, &lane{name: "bwrap", run: timed(func(b *testing.B) {
		out, err := exec.Command("bwrap", args...).CombinedOutput()
		require.NoError(b, err, "%s", out)
	})})
	alternate(b, 40, lanes...)
}

// BenchmarkLaunchBesideSRT compares with Anthropic's sandbox-runtime, as a
// program that is called.
func BenchmarkLaunchBesideSRT(b *testing.B) {
	needSandbox(b)
	needPeer(b, "srt")
	settings := filepath.Join(b.TempDir(), "settings.json")
	text, err := json.Marshal(map[string]any{
		"network":    map[string]any{"allowedDomains": []string{}, "deniedDomains": []string{}},
		"filesystem": map[string]any{"denyRead": []string{}, "allowWrite": []string{b.TempDir()}, "denyWrite": []string{}},
	})
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(settings, text, 0o600))
	var lanes []*lane
	for _, l := range launchers {
		lanes = append(lanes, &lane{name: string(l), run: timed(launched(&Options{Launcher: l}))})
	}
	lanes = append(lanes, &lane{name: "srt", every: 5, run: timed(func(b *testing.B) {
		out, err := exec.Command("srt", "--settings", settings, "/bin/true").CombinedOutput()
		require.NoError(b, err, "%s", out)
	})})
	alternate(b, 20, lanes...)
}

// BenchmarkLaunchBigHeap compares a host that holds 1 GiB with one that does not.
func BenchmarkLaunchBigHeap(b *testing.B) {
	needSandbox(b)
	for _, l := range launchers {
		b.Run(string(l), func(b *testing.B) {
			small, big := &lane{name: "small", run: timed(launched(&Options{Launcher: l}))}, &lane{name: "1GiB", run: timed(launched(&Options{Launcher: l}))}
			for b.Loop() {
				for range 2 {
					for range 10 {
						small.took = append(small.took, small.run(b))
					}
					heap := make([]byte, 1<<30)
					for i := 0; i < len(heap); i += 4096 {
						heap[i] = 1
					}
					for range 10 {
						big.took = append(big.took, big.run(b))
					}
					heap[0]++
					heap = nil
					debug.FreeOSMemory()
				}
			}
			b.ReportMetric(small.quantile(0.5), "small-ms")
			b.ReportMetric(big.quantile(0.5), "1GiB-ms")
			b.ReportMetric(big.quantile(0.5)/small.quantile(0.5), "1GiB-x-small")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkCommand runs /bin/true in a session that lives, beside the same
// outside.
func BenchmarkCommand(b *testing.B) {
	var lanes []*lane
	for _, l := range launchers {
		s := box(b, discard{}, nil, &Options{Launcher: l})
		lanes = append(lanes, &lane{name: string(l), run: timed(func(b *testing.B) {
			require.NoError(b, s.Command(context.Background(), "/bin/true").Run())
		})})
	}
	lanes = append(lanes, &lane{name: "plain", run: timed(func(b *testing.B) { require.NoError(b, exec.Command("/bin/true").Run()) })})
	alternate(b, 200, lanes...)
}

// BenchmarkMemory reports what a session in which nothing runs holds, two seconds
// after the last command: the memory of its own processes, proportional to who
// shares it.
func BenchmarkMemory(b *testing.B) {
	for _, l := range launchers {
		b.Run(string(l), func(b *testing.B) {
			for b.Loop() {
				before := descendants(b)
				s := box(b, discard{}, nil, &Options{Launcher: l})
				require.NoError(b, s.Command(context.Background(), "/bin/true").Run())
				time.Sleep(2 * time.Second) // init gives back what it built the room with
				kB, n := 0, 0
				for pid := range descendants(b) {
					if !before[pid] {
						kB += pss(b, pid)
						n++
					}
				}
				require.NotZero(b, n)
				b.ReportMetric(float64(kB), "kB")
				b.ReportMetric(float64(n), "processes")
				require.NoError(b, s.Close())
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// descendants returns the processes that this one has started, and theirs.
func descendants(b *testing.B) map[int]bool {
	parents := make(map[int]int)
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(b, err)
	for _, f := range all {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
		rest := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		parents[pid], _ = strconv.Atoi(rest[1])
	}
	out := make(map[int]bool)
	for pid := range parents {
		for p := parents[pid]; p > 1; p = parents[p] {
			if p == os.Getpid() {
				out[pid] = true
			}
		}
	}
	return out
}

// pss returns the proportional share of memory of a process in kB.
func pss(b *testing.B, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Skipf("the memory of a session can be read by root only: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			n, err := strconv.Atoi(f[1])
			require.NoError(b, err)
			return n
		}
	}
	b.Fatalf("no Pss in %s", text)
	return 0
}

// BenchmarkFind and BenchmarkGit are work on files, inside and outside.
func BenchmarkFind(b *testing.B) {
	alongside(b, 6, "find /usr >/dev/null 2>&1 || true") // some folders are for root only
}

func BenchmarkGit(b *testing.B) {
	alongside(b, 6, `
		rm -rf work; mkdir work; cd work
		export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
		git init -q .
		for i in 1 2 3 4 5 6 7 8; do seq $i >$i; git add $i; git commit -q -m "commit $i"; done
		git log --stat >/dev/null; git clone -q . copy
	`)
}

// alongside runs a script inside a session and outside, in memory.
func alongside(b *testing.B, rounds int, script string) {
	var lanes []*lane
	for _, l := range launchers {
		s := box(b, discard{}, nil, &Options{Launcher: l})
		lanes = append(lanes, &lane{name: string(l), run: timed(func(b *testing.B) {
			cmd := sh(s, script)
			cmd.Dir = "/tmp"
			require.NoError(b, cmd.Run())
		})})
	}
	dir, err := os.MkdirTemp("/dev/shm", "bench-")
	require.NoError(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	lanes = append(lanes, &lane{name: "plain", run: timed(func(b *testing.B) {
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = dir
		require.NoError(b, cmd.Run())
	})})
	alternate(b, rounds, lanes...)
}
