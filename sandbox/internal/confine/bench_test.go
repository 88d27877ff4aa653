//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkRoom takes turns: a room with one /bin/true in it by each launcher,
// bubblewrap with the same files, a command in a living room of each, and a
// plain process. The medians and tenth percentiles are what counts; ns/op is the
// time of one turn of all.
func BenchmarkRoom(b *testing.B) {
	binds := []Bind{{Source: "/usr"}, {Source: "/bin"}, {Source: "/lib"}, {Source: "/lib64", Optional: true}}
	heap := make([]byte, 1<<30)
	for i := 0; i < len(heap) && os.Getenv("CONFINE_BENCH_HEAP") != ""; i += 4096 {
		heap[i] = 1
	}
	type lane struct {
		name  string
		run   func()
		times []time.Duration
		cpu   time.Duration // of this process and of what it waited for
	}
	used := func() time.Duration {
		var sum int64
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var ru unix.Rusage
			require.NoError(b, unix.Getrusage(who, &ru))
			sum += ru.Utime.Nano() + ru.Stime.Nano()
		}
		return time.Duration(sum)
	}
	var lanes []*lane
	null := []*os.File{nil, nil, nil}
	command := Exec{Path: "/bin/true", Args: []string{"true"}}
	for _, l := range launchers {
		dir := b.TempDir()
		lanes = append(lanes, &lane{name: string(l), run: func() {
			room, err := Launch(context.Background(), &Spec{Launcher: l, Hostname: "sandbox", Workspace: dir, OwnWorkspace: true, Binds: binds})
			require.NoError(b, err)
			p, err := room.Exec(command, null)
			require.NoError(b, err)
			require.Equal(b, 0, p.Wait().Code)
			room.Close()
			room.closeListeners()
		}})
		living := standing(b, &Spec{Launcher: l})
		lanes = append(lanes, &lane{name: string(l) + "-command", run: func() {
			p, err := living.Exec(command, null)
			require.NoError(b, err)
			require.Equal(b, 0, p.Wait().Code)
		}})
	}
	lanes = append(lanes, &lane{name: "plain", run: func() { require.NoError(b, exec.Command("/bin/true").Run()) }})
	if _, err := exec.LookPath("bwrap"); err == nil {
		args := []string{"--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", b.TempDir(), "/sandbox"}
		for _, bind := range binds {
			args = append(args, "--ro-bind-try", bind.Source, bind.Source)
		}
		args = append(args, "/bin/true")
		lanes = append(lanes, &lane{name: "bwrap", run: func() { require.NoError(b, exec.Command("bwrap", args...).Run()) }})
	}
	for b.Loop() {
		for _, l := range lanes {
			began, before := time.Now(), used()
			l.run()
			l.times = append(l.times, time.Since(began))
			l.cpu += used() - before
		}
	}
	for _, l := range lanes {
		slices.Sort(l.times)
		n := len(l.times)
		b.ReportMetric(float64(l.times[n/2].Microseconds()), l.name+"-p50-µs")
		b.ReportMetric(float64(l.cpu.Microseconds())/float64(n), l.name+"-cpu-µs")
		b.ReportMetric(float64(l.times[n/10].Microseconds()), l.name+"-p10-µs")
	}
	_ = heap
}
