//go:build linux && (amd64 || arm64)

package sandbox

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func init() {
	// It connects, and then executes another program in its place, which begins TLS
	// on the connection.
	roles["away"] = func() {
		dst, err := resolveInside("tools.local:443")
		if err == nil {
			err = os.WriteFile("hello", clientHello("tools.local"), 0o600)
		}
		fd, err2 := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil || err2 != nil {
			fmt.Print(err, err2)
			return
		}
		if err = unix.Dup3(fd, 9, 0); err == nil {
			err = unix.Connect(9, dst)
		}
		time.Sleep(300 * time.Millisecond) // the door has looked by now; if not, it will see the other program
		if err == nil {
			err = unix.Exec("/bin/bash", []string{"bash", "-c", "cat hello >&9; head -c 1 <&9 | od -An -tx1"}, os.Environ())
		}
		fmt.Print(err)
	}
}

// clientHello returns the first bytes of a TLS connection to a name.
func clientHello(name string) []byte {
	near, far := net.Pipe()
	go func() { _ = tls.Client(near, &tls.Config{ServerName: name}).Handshake(); near.Close() }()
	b := make([]byte, 4096)
	n, _ := far.Read(b)
	far.Close()
	return b[:n]
}

// TestProgramExecutedAway has a program that may connect give its connection to
// one that may not, before the first byte.
func TestProgramExecutedAway(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, rules(Rule{Host: "tools.local", Ports: []uint16{443}, Programs: []Program{{Path: Self}}}), &Options{Self: true})
	require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "tools") })))
	assert.Equal(t, []string{"200 tools"}, try(t, s, "get https://tools.local/"))
	c := s.Command(t.Context(), Self)
	c.Env = roleEnv("away")
	out, err := c.Output()
	require.NoError(t, err)
	assert.Empty(t, string(out), "an answer came")
	require.NoError(t, s.Close())
	denied := 0
	for _, r := range log.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindDenial && r.Event.Decision.Reason == CauseProgram {
			denied++
		}
	}
	assert.Equal(t, 1, denied)
}
