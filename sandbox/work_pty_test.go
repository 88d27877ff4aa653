//go:build linux && (amd64 || arm64)

package sandbox

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// Programs that want a terminal have one: they prompt, draw, and take keys.
func TestWorkAtATerminal(t *testing.T) {
	eachLauncher(t, func(t *testing.T, opts *Options) {
		s := box(t, audittest.NewLog(t), nil, opts)
		for _, w := range []struct {
			program []string
			steps   []string // what appears, what is pressed then, and so on
		}{
			{[]string{"python3", "-q"}, []string{">>> ", "print(6 * 7)\n", "42\r\n", "import sys; print(sys.stdout.isatty())\n", "True", "exit()\n"}},
			{[]string{"node"}, []string{"> ", "6 * 7\n", "42", ".exit\n"}},
			{[]string{"top"}, []string{"load average", "q"}},
			{[]string{"bash", "--norc", "-i"}, []string{"$ ", "read -r -p 'name? ' name && echo hello-$name\n", "name? ", "me\n", "hello-me", "exit\n"}},
		} {
			t.Run(w.program[0], func(t *testing.T) {
				needPrograms(t, w.program[0])
				cmd := s.Command(t.Context(), w.program[0], w.program[1:]...)
				screen := terminal(t, cmd, WindowSize{Rows: 30, Cols: 100})
				for i, step := range w.steps {
					if i%2 == 0 {
						screen.until(step)
					} else {
						screen.keys(step)
					}
				}
				require.NoError(t, cmd.Wait())
			})
		}
	})
}
