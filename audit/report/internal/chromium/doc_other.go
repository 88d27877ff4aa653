//go:build !unix

// Package chromium opens pages in a real headless Chromium for a test, on Unix.
package chromium
