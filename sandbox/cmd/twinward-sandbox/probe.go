package main

import (
	"fmt"
	"io"

	"github.com/twinward-dev/twinward/sandbox"
)

// probe prints which layers of a sandbox this system can make.
func probe(out io.Writer) (int, error) {
	have := sandbox.Probe()
	for _, l := range sandbox.Layers() {
		answer := "yes"
		if why := have.Reasons[l]; why != nil {
			answer = "no: " + why.Error()
		}
		fmt.Fprintf(out, "%-18s %s\n", l, answer)
	}
	if len(have.Missing) > 0 {
		return failed, fmt.Errorf("this system lacks %v", have.Missing)
	}
	return 0, nil
}
