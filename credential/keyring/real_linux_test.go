package keyring

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests again, in a process that has a session bus of its own with a real
// GNOME Keyring on it.
func TestWithGnomeKeyring(t *testing.T) {
	if os.Getenv(inSession) != "" {
		t.Skip("this is that process")
	}
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test runs a GNOME Keyring: set TWINWARD_FULL=1")
	}
	for _, tool := range []string{"dbus-run-session", "gnome-keyring-daemon"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err, "install the packages dbus and gnome-keyring")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	home, err := os.MkdirTemp("", "kr") // short: a socket's path has about 100 bytes
	require.NoError(t, err)
	defer os.RemoveAll(home)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The daemon runs in the foreground as this shell's child, ends with it, and
	// is ready when it owns its name on the bus.
	const script = `
set -e
printf 'a password' | gnome-keyring-daemon --foreground --unlock --components=secrets >/dev/null 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon 2>/dev/null || true' EXIT
for i in $(seq 200); do
	dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
		string:org.freedesktop.secrets 2>/dev/null | grep -q true && break
	sleep 0.05
done
"$@"
`
	cmd := exec.CommandContext(ctx, "dbus-run-session", "--", "sh", "-c", script, "sh", self, "-test.v", "-test.run", "^Test(Store|TwoStores|Key|KEK|DestroyingIsFinished|ValuesAreRemoved|ItemsOfAnotherHand)$")
	cmd.Env = []string{
		inSession + "=1", "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + home, "TMPDIR=" + os.TempDir(),
		"XDG_DATA_HOME=" + home, "XDG_RUNTIME_DIR=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home,
	}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "--- SKIP", "everything must have run")
	require.Equal(t, 7, strings.Count("\n"+string(out), "\n--- PASS"), "%s", out)
}
