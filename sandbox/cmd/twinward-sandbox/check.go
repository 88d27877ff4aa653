package main

import (
	"os"

	"github.com/twinward-dev/twinward/sandbox"
)

// check says what is wrong with the policy in a file.
func check(file string) (int, error) {
	_, err := load(file)
	return exitStatus(err), err
}

func load(file string) (*sandbox.Policy, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return sandbox.LoadPolicy(file, text)
}
