package sandbox

import (
	"os"
	"sync"
	"testing"
)

// roles are what the test binary does instead of testing when it runs again,
// inside a sandbox or as a host that is to be killed.
var roles = map[string]func(){}

const roleVar = "SANDBOX_TEST_ROLE"

// roleEnv is the environment of this binary in a role, inside a sandbox. With the
// race detector, a process needs to be told there too not to sleep at its end.
func roleEnv(role string) []string {
	return []string{roleVar + "=" + role, "GORACE=" + os.Getenv("GORACE")}
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == escapeSetID {
		escapeRights()
		os.Exit(0)
	}
	if role := roles[os.Getenv(roleVar)]; role != nil {
		role()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A probe of the escape corpus runs this binary, or a set-id copy of it, with
// this argument, to learn which rights it has.
var (
	escapeSetID  = "print-rights"
	escapeRights = func() {}
)

var probeOnce = sync.OnceValue(Probe)
