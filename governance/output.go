package governance

import (
	"errors"
	"fmt"

	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// ErrOutput is wrapped by the errors of [Engine.CheckOutput].
var ErrOutput = errors.New("governance: the result is not what the approved output schema says")

// CheckOutput holds the structured result of a tool to the output schema that was
// approved for it. structured is nil for a result that has none. It is an error
// if it breaks the schema, if it is absent although there is a schema, if it is
// no strict JSON of at most 4 MiB and 200,000 values, and if the schema cannot be
// checked at all. A tool without a schema may return anything.
func (e *Engine) CheckOutput(server, tool string, structured []byte) error {
	s := e.Snapshot()
	if s == nil {
		return fmt.Errorf("%w: %w", ErrOutput, ErrNoSnapshot)
	}
	t := s.tools[toolRef{server, tool}]
	switch {
	case t == nil:
		return fmt.Errorf("%w: there is no tool %q of server %q", ErrOutput, tool, server)
	case len(t.def.OutputSchema) == 0:
		return nil
	case t.output == nil:
		return fmt.Errorf("%w: the schema of %q cannot be checked", ErrOutput, t.key)
	case structured == nil:
		return fmt.Errorf("%w: %q returned nothing structured", ErrOutput, t.key)
	}
	if err := t.output.Check(structured); err != nil {
		return fmt.Errorf("%w: %w", ErrOutput, err)
	}
	return nil
}

// makeOutput compiles the output schema of a tool, if it has one.
func (t *tool) makeOutput() {
	if len(t.def.OutputSchema) == 0 {
		return
	}
	o, left, err := argument.NewOutput(t.def.OutputSchema)
	switch {
	case err != nil:
		t.notes = append(t.notes, argument.Note{Code: "output-schema", Warning: true,
			Msg: fmt.Sprintf("its outputSchema cannot be checked (%s), so that its results are withheld", err), Fix: "take the schema out of the catalogue file only if the server leaves it out too; otherwise do not approve the tool"})
	case left != "":
		t.notes = append(t.notes, argument.Note{Code: "output-schema",
			Msg: "its outputSchema is checked without " + left, Fix: "nothing to do"})
	}
	t.output = o
}
