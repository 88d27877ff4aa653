//go:build linux && (amd64 || arm64)

package escape

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	bad   = ^uintptr(0)      // no such descriptor, no such address
	atCWD = ^uintptr(0) - 99 // AT_FDCWD
	high  = uintptr(1) << 32
)

// surfaceProbes try calls that ordinary programs need, with arguments that they
// do not need. Descriptors and addresses are bad where the call would otherwise
// have an effect.
func surfaceProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: Surface, How: how, Stops: stops, try: try})
	}
	filter := []string{seccomp}
	call := func(name, how string, nr uintptr, args ...uintptr) { add(name, how, filter, refused(nr, args...)) }

	for _, ns := range []struct {
		name string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER}, {"mount", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"network", unix.CLONE_NEWNET},
		{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP},
	} {
		// With flags that exclude each other, so that no kernel makes one.
		call("unshare: "+ns.name+" namespace", "unshare(2)", unix.SYS_UNSHARE, ns.flag|1)
		call("clone: "+ns.name+" namespace", "clone(2)", unix.SYS_CLONE, ns.flag|unix.CLONE_SIGHAND)
	}
	call("unshare: time namespace", "unshare(2)", unix.SYS_UNSHARE, 0x80|1)
	call("unshare: with high bits", "the flag beneath others", unix.SYS_UNSHARE, high|unix.CLONE_NEWUSER|1)
	call("clone: with high bits", "the flag beneath others", unix.SYS_CLONE, high|unix.CLONE_NEWUSER|unix.CLONE_SIGHAND)

	for _, s := range []struct {
		name                string
		family, kind, proto uintptr
	}{
		{"raw IPv4", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {"raw IPv6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{"raw, hidden in flags", unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, unix.IPPROTO_RAW},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, {"ping over IPv6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6},
		{"MPTCP", unix.AF_INET, unix.SOCK_STREAM, 262}, {"MPTCP over IPv6", unix.AF_INET6, unix.SOCK_STREAM, 262},
		{"SCTP", unix.AF_INET, unix.SOCK_STREAM, 132}, {"SCTP packets", unix.AF_INET, unix.SOCK_SEQPACKET, 132},
		{"DCCP", unix.AF_INET, 6, 33}, {"UDP-Lite", unix.AF_INET, unix.SOCK_DGRAM, 136}, {"IP packets of the old kind", unix.AF_INET, 10, 3},
		{"SMC", 43, unix.SOCK_STREAM, 0}, {"RDM", unix.AF_INET, unix.SOCK_RDM, 0},
	} {
		call("socket: "+s.name, "socket(2)", unix.SYS_SOCKET, s.family, s.kind, s.proto)
	}
	families := map[uintptr]string{
		0: "unspec", 3: "ax25", 4: "ipx", 5: "appletalk", 6: "netrom", 7: "bridge", 8: "atmpvc", 9: "x25", 11: "rose", 12: "decnet", 13: "netbeui",
		14: "security", 15: "key", 17: "packet", 18: "ash", 19: "econet", 20: "atmsvc", 21: "rds", 22: "sna", 23: "irda", 24: "pppox", 25: "wanpipe",
		26: "llc", 27: "ib", 28: "mpls", 29: "can", 30: "tipc", 31: "bluetooth", 32: "iucv", 33: "rxrpc", 34: "isdn", 35: "phonet", 36: "ieee802154",
		37: "caif", 38: "alg", 39: "nfc", 40: "vsock", 41: "kcm", 42: "qipcrtr", 43: "smc", 44: "xdp", 45: "mctp",
	}
	for family := range uintptr(64) {
		if family == unix.AF_UNIX || family == unix.AF_INET || family == unix.AF_INET6 || family == unix.AF_NETLINK {
			continue
		}
		name := families[family]
		if name == "" {
			name = fmt.Sprintf("family %d", family)
		}
		// A kind that no family has: an unfiltered kernel says so.
		add("socket: "+name, "socket(2) of a family that nobody needs", filter, func(Target) error {
			if err := refused(unix.SYS_SOCKET, family, unix.SOCK_RAW, 0)(Target{}); err != nil {
				return err
			}
			return refused(unix.SYS_SOCKET, family, unix.SOCK_DGRAM, 0)(Target{})
		})
	}
	call("socket: with high bits", "the family beneath others", unix.SYS_SOCKET, high|unix.AF_PACKET, unix.SOCK_RAW, 0)
	for proto, name := range []string{
		1: "unused", 2: "usersock", 3: "firewall", 4: "sock_diag", 5: "nflog", 6: "xfrm", 7: "selinux", 8: "iscsi", 9: "audit", 10: "fib_lookup",
		11: "connector", 12: "netfilter", 13: "ip6_fw", 14: "dnrtmsg", 15: "kobject events", 16: "generic", 18: "scsi", 19: "ecryptfs", 20: "rdma", 21: "crypto", 22: "smc",
	} {
		if name != "" {
			call("netlink: "+name, "socket(2)", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, uintptr(proto))
		}
	}
	call("socketpair: IPv4", "socketpair(2)", unix.SYS_SOCKETPAIR, unix.AF_INET, unix.SOCK_STREAM, 0, bad)
	call("socketpair: TIPC", "socketpair(2)", unix.SYS_SOCKETPAIR, unix.AF_TIPC, unix.SOCK_STREAM, 0, bad)

	for _, c := range []struct {
		name string
		cmd  uintptr
	}{
		{"TIOCSTI", unix.TIOCSTI}, {"TIOCSTI with high bits", high | unix.TIOCSTI}, {"TIOCLINUX", 0x541c}, {"TIOCSETD", unix.TIOCSETD}, {"TIOCCONS", 0x541d},
	} {
		call("ioctl: "+c.name, "ioctl(2) on no descriptor", unix.SYS_IOCTL, bad, c.cmd, 0)
	}
	call("prctl: PR_SET_MM", "prctl(2)", unix.SYS_PRCTL, unix.PR_SET_MM, 99, 0, 0, 0)
	call("prctl: PR_SET_SECUREBITS", "prctl(2)", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 1<<30, 0, 0, 0)
	call("seccomp: listener", "seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER", unix.SYS_SECCOMP, 1, 8, 0)
	call("seccomp: listener among other flags", "seccomp(2)", unix.SYS_SECCOMP, 1, 8|2, 0)
	call("personality: no randomisation", "personality(2)", unix.SYS_PERSONALITY, 0x0040000)
	call("personality: read implies execute", "personality(2)", unix.SYS_PERSONALITY, 0x0400000)
	call("fcntl: lease", "fcntl(2)", unix.SYS_FCNTL, bad, unix.F_SETLEASE, unix.F_WRLCK)
	call("renameat2: whiteout", "renameat2(2)", unix.SYS_RENAMEAT2, bad, bad, bad, bad, unix.RENAME_WHITEOUT)

	call("fchmod: set-user-id", "fchmod(2)", unix.SYS_FCHMOD, bad, 0o4755)
	call("fchmod: set-group-id", "fchmod(2)", unix.SYS_FCHMOD, bad, 0o2755)
	call("fchmod: with high bits", "fchmod(2)", unix.SYS_FCHMOD, bad, high|0o4755)
	call("fchmodat: set-id", "fchmodat(2)", unix.SYS_FCHMODAT, bad, bad, 0o2755)
	call("fchmodat2: set-id", "fchmodat2(2)", unix.SYS_FCHMODAT2, bad, bad, 0o4755, 0)
	call("openat: set-id", "O_CREAT", unix.SYS_OPENAT, bad, bad, unix.O_CREAT, 0o4755)
	call("openat: set-id temporary file", "O_TMPFILE", unix.SYS_OPENAT, bad, bad, unix.O_TMPFILE|unix.O_WRONLY, 0o4755)
	call("mkdirat: set-id", "mkdirat(2)", unix.SYS_MKDIRAT, bad, bad, 0o2755)
	call("mknodat: set-id", "mknodat(2)", unix.SYS_MKNODAT, bad, bad, 0o104755, 0)
	before := len(probes)
	archProbes(add)
	for i := range probes[before:] {
		probes[before+i].apart = true // filters like to kill for these
	}
	return probes
}
