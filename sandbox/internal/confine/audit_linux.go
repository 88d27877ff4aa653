//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Landlock reports what it refuses to the kernel's audit log, from version 7 on,
// where audit is on and a program that was executed inside is meant to be heard
// of. A host with CAP_AUDIT_READ in the first user namespace hears the log on a
// netlink multicast group, beside auditd and without taking anything from it.
// Nothing here turns audit on: that is up to whoever runs the machine.

// Records of linux/audit.h.
const (
	auditLandlockAccess = unix.AUDIT_LANDLOCK_ACCESS
	auditLandlockDomain = unix.AUDIT_LANDLOCK_DOMAIN
	auditReadLog        = 1 << (unix.AUDIT_NLGRP_READLOG - 1)
)

// minLandlockLog is the first version that reports.
const minLandlockLog = 7

// openAudit joins the group, or says why it cannot.
func openAudit(abi int) (*os.File, error) {
	if abi < minLandlockLog {
		return nil, errors.New("reports begin with version 7 of Landlock (Linux 6.15)")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, errors.New("the kernel has no audit: " + err.Error())
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: auditReadLog}); err != nil {
		unix.Close(fd)
		return nil, errors.New("hearing the audit log takes CAP_AUDIT_READ outside of any container: " + err.Error())
	}
	return os.NewFile(uintptr(fd), "audit"), nil
}

// auditOff returns an error when audit is off, as it is by default.
func auditOff() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	ask := make([]byte, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint32(ask, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint16(ask[4:], unix.AUDIT_GET)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	for range 4 {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return err
		}
		// struct audit_status: mask, enabled, …
		if n >= unix.NLMSG_HDRLEN+8 && binary.NativeEndian.Uint16(b[4:]) == unix.AUDIT_GET {
			if binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN+4:]) == 0 {
				return errors.New("audit is off (auditctl -e 1 turns it on)")
			}
			return nil
		}
	}
	return errors.New("the kernel does not say whether audit is on")
}

// A landlockLog picks the records of one room out of the audit log.
type landlockLog struct {
	pid     int                 // of init, which made the room's domain
	mine    string              // the domain, once it is known
	waiting map[string][]Denial // by domain, of which nobody knows yet whose it is
}

// waitingDomains bounds the domains of others that are remembered.
const waitingDomains = 256

// take reads one record and returns the room's denials that it makes known. The
// record of a refusal comes before that of its domain, which comes once.
func (l *landlockLog) take(kind uint16, text string) []Denial {
	_, text, _ = strings.Cut(text, "): ")
	domain := auditField(text, "domain")
	if domain == "" {
		return nil
	}
	switch kind {
	case auditLandlockDomain:
		waited := l.waiting[domain]
		delete(l.waiting, domain)
		if l.mine == "" && auditField(text, "pid") == strconv.Itoa(l.pid) && auditField(text, "status") == "allocated" {
			l.mine, l.waiting = domain, nil
			return waited
		}
	case auditLandlockAccess:
		d := Denial{Layer: LayerLandlock, What: auditField(text, "blockers"), Object: auditField(text, "path")}
		if domain == l.mine {
			return []Denial{d}
		}
		if l.mine == "" && (len(l.waiting[domain]) > 0 || len(l.waiting) < waitingDomains) && len(l.waiting[domain]) < 64 {
			if l.waiting == nil {
				l.waiting = map[string][]Denial{}
			}
			l.waiting[domain] = append(l.waiting[domain], d)
		}
	}
	return nil
}

// auditField returns the value of a field, without the quotes that text has, or
// decoded where the kernel wrote hexadecimal because of an odd character.
func auditField(text, name string) string {
	for rest := text; ; {
		i := strings.Index(rest, name+"=")
		if i < 0 {
			return ""
		}
		v := rest[i+len(name)+1:]
		if i > 0 && rest[i-1] != ' ' {
			rest = v
			continue
		}
		if quoted, ok := strings.CutPrefix(v, `"`); ok {
			v, _, _ = strings.Cut(quoted, `"`)
			return v[:min(len(v), maxObject)]
		}
		v, _, _ = strings.Cut(v, " ")
		if b, err := hex.DecodeString(v); err == nil && name == "path" {
			v = string(bytes.ToValidUTF8(b, []byte("?")))
		}
		return v[:min(len(v), maxObject)]
	}
}

// maxObject bounds what is told of an object.
const maxObject = 512

// serveAudit tells of the room's denials until the file is closed.
func serveAudit(f *os.File, pid int, tell func(Denial)) {
	l := &landlockLog{pid: pid}
	b := make([]byte, 16<<10)
	for {
		n, err := f.Read(b)
		if errors.Is(err, unix.ENOBUFS) {
			continue // the log was faster; what is lost is lost for the report only
		}
		if err != nil {
			return
		}
		if n < unix.NLMSG_HDRLEN {
			continue
		}
		for _, d := range l.take(binary.NativeEndian.Uint16(b[4:]), string(bytes.TrimRight(b[unix.NLMSG_HDRLEN:n], "\x00"))) {
			tell(d)
		}
	}
}

// hearAudit listens to the log for a room that is about to be made, or says why
// there is nothing to be heard.
func (b *Box) hearAudit(d *delivery) error {
	if !d.order.Notify {
		return nil
	}
	abi, err := landlockABI()
	if err != nil {
		return nil // a layer that is missing reports nothing
	}
	f, err := openAudit(abi)
	if err != nil {
		return err
	}
	if err := auditOff(); err != nil {
		f.Close()
		return err
	}
	b.audit, d.order.LogLandlock = f, true
	return nil
}

// unseen notes why the denials of a layer are not reported.
func (r *Report) unseen(l Layer, why string) {
	if r.Unseen == nil {
		r.Unseen = map[Layer]string{}
	}
	r.Unseen[l] = why
}
