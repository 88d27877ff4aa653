package main

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// writeJSON writes v on one line, writeIndented on several. What agents and others
// put into it cannot drive a terminal.
func writeJSON(out io.Writer, v any) error {
	enc, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(visible.JSON(enc), '\n'))
	return err
}

func writeIndented(out io.Writer, v any) error {
	enc, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for line := range bytes.SplitSeq(enc, []byte("\n")) {
		b.Write(visible.JSON(line))
		b.WriteByte('\n')
	}
	_, err = b.WriteTo(out)
	return err
}
