//go:build !linux

package main

import "errors"

func (p *part) ownUser() error { return nil }

func searchMemory(int, []string) (int, int64, error) {
	return 0, 0, errors.New("-split needs Linux, to search the memory of the two hosts")
}
