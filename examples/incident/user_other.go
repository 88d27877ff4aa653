//go:build !unix

package main

import "syscall"

const nobody = 0

func otherUser() *syscall.SysProcAttr { return nil }
