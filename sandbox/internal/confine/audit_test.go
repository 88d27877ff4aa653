//go:build linux && (amd64 || arm64)

package confine

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestLandlockLog(t *testing.T) {
	const (
		access = `audit(1729738800.268:30): domain=%s blockers=fs.make_reg path="%s" dev="vda2" ino=1`
		made   = `audit(1729738800.268:30): domain=%s status=allocated mode=enforcing pid=%d uid=0 exe="/x" comm="pid=7 domain=a1"`
	)
	l := &landlockLog{pid: 7}
	denial := func(path string) Denial {
		return Denial{Layer: LayerLandlock, What: "fs.make_reg", Object: path}
	}
	for _, c := range []struct {
		kind uint16
		text string
		want []Denial
	}{
		{auditLandlockAccess, fmt.Sprintf(access, "a1", "/one"), nil},
		{auditLandlockAccess, fmt.Sprintf(access, "b2", "/other"), nil},
		{auditLandlockDomain, fmt.Sprintf(made, "b2", 8), nil},
		{1300, fmt.Sprintf(made, "a1", 7), nil},
		{auditLandlockDomain, fmt.Sprintf(made, "a1", 7), []Denial{denial("/one")}},
		{auditLandlockAccess, fmt.Sprintf(access, "a1", "/two"), []Denial{denial("/two")}},
		{auditLandlockAccess, fmt.Sprintf(access, "b2", "/other"), nil},
		{auditLandlockDomain, fmt.Sprintf(made, "c3", 7), nil}, // a pid that is used again
		{auditLandlockAccess, `audit(1:2): domain=a1 blockers=net.connect_tcp daddr=1.2.3.4 dest=80`, []Denial{{Layer: LayerLandlock, What: "net.connect_tcp"}}},
		{auditLandlockAccess, `audit(1:2): domain=a1 blockers=fs.read_file path=2F610A62`, []Denial{{Layer: LayerLandlock, What: "fs.read_file", Object: "/a\nb"}}},
		{auditLandlockAccess, "nonsense", nil},
	} {
		assert.Equal(t, c.want, l.take(c.kind, c.text), c.text)
	}
	l = &landlockLog{pid: 7}
	for i := range 10 * waitingDomains {
		l.take(auditLandlockAccess, fmt.Sprintf(access, fmt.Sprint(i), "/x"))
	}
	assert.Len(t, l.waiting, waitingDomains)
	assert.Len(t, auditField(`path="`+strings.Repeat("x", 9999)+`"`, "path"), maxObject)
}

func FuzzLandlockLog(f *testing.F) {
	f.Add(uint16(auditLandlockAccess), `audit(1:2): domain=a1 blockers=fs.read_file path="/x"`)
	f.Fuzz(func(t *testing.T, kind uint16, text string) {
		l := &landlockLog{pid: 1, mine: "a1"}
		for _, d := range l.take(kind, text) {
			assert.LessOrEqual(t, len(d.Object), maxObject)
		}
	})
}

func init() {
	roles["read-canary"] = func() {
		_, err := os.ReadFile(canary)
		say("canary", err)
	}
}

// TestLandlockDenialsAreReported hears of them where audit is on, and says why
// not elsewhere.
func TestLandlockDenialsAreReported(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		var c tally
		b := launch(func(s *Spec) { s.OnDenial = c.tell })
		found := findings(t, b, "read-canary")
		require.Equal(t, "EACCES", found["canary"])
		if why := b.Report().Unseen[LayerLandlock]; why != "" {
			t.Log("not reported here: ", why)
			assert.Empty(t, c.seen)
			return
		}
		want := Denial{Layer: LayerLandlock, What: "fs.read_file", Object: canary}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			c.mu.Lock()
			n := c.seen[want]
			c.mu.Unlock()
			if n > 0 {
				return
			}
		}
		t.Errorf("nothing was reported: %v", c.seen)
	})
}

func TestLandlockVersions(t *testing.T) {
	const latest = 9 // whose file system rights are the newest that are used here
	for abi, want := range map[int]uint64{
		1: 1<<13 - 1, 2: 1<<14 - 1, 3: 1<<15 - 1, 4: 1<<15 - 1, 5: 1<<16 - 1, 6: 1<<16 - 1, 7: 1<<16 - 1, 8: 1<<16 - 1, 9: 1<<17 - 1, 10: 1<<17 - 1, 99: 1<<17 - 1,
	} {
		assert.Equal(t, want, handledFS(abi), abi)
		attr, size := landlockAttr(abi)
		assert.Equal(t, want, attr.Handled_access_fs)
		assert.Zero(t, attr.Handled_access_net, "every address leads to the host, and the room's own servers may have any port")
		if abi >= 6 {
			assert.EqualValues(t, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|unix.LANDLOCK_SCOPE_SIGNAL, attr.Scoped)
			assert.EqualValues(t, 24, size)
		} else {
			assert.Zero(t, attr.Scoped)
		}
	}
	// Nothing that is granted is unknown to the latest version, and nothing lets a
	// socket of the host be connected to.
	for _, r := range landlockRules(&Spec{Self: true, GPU: true, Devices: []string{"x"}}, map[string]bool{"/a": true, "/b": false}) {
		assert.Zero(t, r.access&^handledFS(latest), r.path)
		assert.Zero(t, r.access&unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX, r.path)
	}
}
