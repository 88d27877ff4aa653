// Package fsuser lets a host that is root touch files as somebody else.
package fsuser

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread that has the rights of a user and a group to files, and
// no more: what it makes is theirs, and what they could not do fails. f must not
// start goroutines for that. A negative uid runs f as this process is. An error
// says that f did not run.
func Do(uid, gid int, f func()) error {
	if uid < 0 {
		f()
		return nil
	}
	runtime.LockOSThread()
	// The group first: letting go of the user lets go of the right to set it.
	ownGID, err := unix.SetfsgidRetGid(gid)
	ownUID, err2 := unix.SetfsuidRetUid(uid)
	back := func() {
		_, err := unix.SetfsuidRetUid(ownUID)
		_, err2 := unix.SetfsgidRetGid(ownGID)
		if is(ownUID, ownGID) && err == nil && err2 == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}
	defer back()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if !is(uid, gid) { // the calls themselves never fail
		return unix.EPERM
	}
	f()
	return nil
}

// is reports whether this thread has the user and group. Setting one that does
// not exist returns the present one.
func is(uid, gid int) bool {
	u, _ := unix.SetfsuidRetUid(-1)
	g, _ := unix.SetfsgidRetGid(-1)
	return u == uid && g == gid
}
