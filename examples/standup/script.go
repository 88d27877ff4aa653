package main

import "github.com/twinward-dev/twinward/inference/inferencetest"

// script is the default model: it does the standup, then everything that it
// should not. It wants the host's key.
func script(key string) *inferencetest.Script {
	var turns []inferencetest.Turn
	for _, c := range append(deeds(), misdeeds()...) {
		turns = append(turns, inferencetest.Turn{Calls: []inferencetest.Call{{Name: c.Name, Args: c.Args}}})
	}
	s := inferencetest.NewScript(turns...)
	s.Key = key
	return s
}
