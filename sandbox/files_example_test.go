package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox"
)

// An agent works on a copy of a project; what it planted stays inside.
func ExampleSession_Export() {
	ctx := context.Background()
	var recorder audit.Recorder // such as an *audit.Log
	box, err := sandbox.Start(ctx, nil, audit.Actor{Agent: "fixer"}, recorder, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer box.Close()
	if _, err := box.Import(ctx, "project", "/home/me/project", nil); err != nil {
		log.Fatal(err)
	}
	if err := box.Command(ctx, "make", "-C", "project", "fix").Run(); err != nil {
		log.Fatal(err)
	}
	done, err := box.Export(ctx, "project", "/home/me/project", nil)
	var planted *sandbox.ProtectedError
	if errors.As(err, &planted) {
		log.Fatalf("look at these before you take them: %q", planted.Paths)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done.Files, "files are back")
}

// A shell with a terminal of its own. What a person types would go to term.
func ExampleCmd_StartPty() {
	ctx := context.Background()
	var recorder audit.Recorder // such as an *audit.Log
	box, err := sandbox.Start(ctx, nil, audit.Actor{Agent: "shell"}, recorder, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer box.Close()
	cmd := box.Command(ctx, "bash", "-i")
	term, err := cmd.StartPty(sandbox.WindowSize{Rows: 40, Cols: 120})
	if err != nil {
		log.Fatal(err)
	}
	defer term.Close()
	if _, err := io.WriteString(term, "ls\rexit\r"); err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, term); err != nil {
		log.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		log.Fatal(err)
	}
}
