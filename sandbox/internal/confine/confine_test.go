//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTrue(t *testing.T) {
	ws := t.TempDir()
	b, err := Launch(context.Background(), &Spec{Hostname: "sandbox", Workspace: ws, OwnWorkspace: true, Ports: []uint16{80, 443}, Self: true,
		Env:   []string{"PATH=/usr/bin:/bin"},
		Binds: []Bind{{Source: "/usr"}, {Source: "/bin", Optional: true}, {Source: "/lib", Optional: true}, {Source: "/lib64", Optional: true}, {Source: "/sbin", Optional: true}}})
	require.NoError(t, err)
	t.Log(b.Report())
	r, w, _ := os.Pipe()
	p, err := b.Exec(Exec{Path: "sh", Args: []string{"sh", "-c", "id; ls -la / /dev /run/twinward /sandbox; cat /proc/self/status | env; egrep 'Cap|Sec|NoN'; ps aux; mount; touch /sandbox/x && ls -la /sandbox; hostname; cat /etc/hostname; ulimit -a"}}, []*os.File{nil, w, w})
	require.NoError(t, err)
	w.Close()
	out, _ := io.ReadAll(r)
	t.Logf("%s", out)
	t.Log(p.Wait())
	b.Close()
}
