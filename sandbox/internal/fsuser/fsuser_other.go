//go:build !linux

// Package fsuser lets a host that is root touch files as somebody else.
package fsuser
