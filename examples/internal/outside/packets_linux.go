package outside

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// captureWord is the argument that makes a program take packets: see [Main].
const captureWord = "capture-packets"

// Rooms returns the processes of each network namespace that descendants of this
// process have and it has not, by the namespace and in the order of their
// numbers. Those that see the processes of this one are not in a session.
func Rooms() (map[string][]int, error) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	ownPID, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	rooms := map[string][]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		ns, err := os.Readlink(dir + "/ns/net")
		if err != nil || ns == own {
			continue
		}
		if in, err := os.Readlink(dir + "/ns/pid"); err != nil || in == ownPID || !descends(pid) {
			continue // has ended, or is not ours
		}
		rooms[ns] = append(rooms[ns], pid)
	}
	for _, pids := range rooms {
		slices.Sort(pids)
	}
	return rooms, nil
}

// descends reports whether a process comes from this one.
func descends(pid int) bool {
	for range 64 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil || pid <= 1 {
			return false
		}
		if pid == os.Getpid() {
			return true
		}
	}
	return false
}

// A Capture takes the packets of a session.
type Capture struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// enter goes into the network of process argv[1] and runs the rest of its
// arguments there, with a packet socket as descriptor 3. Who is not root has
// the right to that socket in the session's own user namespace only, which a
// process of many threads, as those of Go are, cannot enter.
const enter = `
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
for kind in ["net"] if os.getuid() == 0 else ["user", "net"]:
    if libc.setns(os.open("/proc/%s/ns/%s" % (sys.argv[1], kind), os.O_RDONLY), 0) != 0:
        sys.exit("setns: " + os.strerror(ctypes.get_errno()))
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) # ETH_P_ALL
os.dup2(s.fileno(), 3)
os.execv(sys.argv[2], sys.argv[2:])
`

// Listen begins to take the packets of the network namespace of a process,
// which is one of a session of this process. The program must call [Main]. It
// needs python3.
func Listen(pid int, secrets []string) (*Capture, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Capture{cmd: exec.Command("python3", "-c", enter, strconv.Itoa(pid), self, captureWord)}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("python3 is needed to listen: %w", err)
	}
	if err := json.NewEncoder(c.stdin).Encode(secrets); err != nil {
		return nil, errors.Join(err, c.cmd.Wait())
	}
	if line, err := c.out.ReadString('\n'); err != nil || line != "listening\n" {
		c.stdin.Close()
		return nil, errors.Join(errors.New("outside: the packets cannot be taken"), err, c.cmd.Wait())
	}
	return c, nil
}

// Stop ends the capture and returns what was seen until now. It may be called
// when the session has ended.
func (c *Capture) Stop() (t Traffic, err error) {
	c.stdin.Close()
	err = json.NewDecoder(c.out).Decode(&t)
	return t, errors.Join(err, c.cmd.Wait())
}

// Main is the program's other half, and to be called first by main: it takes
// packets and exits if the program was started for that.
func Main() {
	if len(os.Args) != 2 || os.Args[1] != captureWord {
		return
	}
	if err := capture(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "capture:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// capture takes packets until in ends, and what has come by then.
func capture(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	var secrets []string
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &secrets); err != nil {
		return err
	}
	const fd = 3
	// What comes while this process does not get a turn must not be lost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<20)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		return err
	}
	t := taker{to: map[string]bool{}, asked: map[string]bool{}, seen: map[string]bool{}, secrets: secrets}
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		t.Interfaces = append(t.Interfaces, i.Name)
	}
	fmt.Fprintln(out, "listening")
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		close(over)
	}()
	buf := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			select {
			case <-over:
				return json.NewEncoder(out).Encode(t.end())
			default:
			}
		case err != nil:
			return err
		default:
			if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
				t.take(buf[:n])
			}
		}
	}
}

type taker struct {
	Traffic
	to, asked, seen map[string]bool
	secrets         []string
}

// take counts one packet, which begins with its IP header.
func (t *taker) take(p []byte) {
	t.Packets++
	for _, secret := range t.secrets {
		for _, form := range forms(secret) {
			t.seen[secret] = t.seen[secret] || bytes.Contains(p, form)
		}
	}
	if len(p) < 20 || p[0]>>4 != 4 && (p[0]>>4 != 6 || len(p) < 40) {
		t.to["other"] = true
		return
	}
	proto, dst, rest := p[9], netip.AddrFrom4([4]byte(p[16:20])), p[min(int(p[0]&15)*4, len(p)):]
	if p[0]>>4 == 6 {
		proto, dst, rest = p[6], netip.AddrFrom16([16]byte(p[24:40])), p[40:]
	}
	if len(rest) < 8 || proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_UDP {
		t.to[fmt.Sprintf("protocol %d to %s", proto, dst)] = true
		return
	}
	src, port := binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	name := "tcp"
	if proto == unix.IPPROTO_UDP {
		name = "udp"
		if port == 53 {
			t.asked[question(rest[8:])] = true
		}
	}
	if src > port { // what goes to a server, and not its answers
		t.to[name+" "+netip.AddrPortFrom(dst, port).String()] = true
	}
}

// question returns the name in a DNS question (RFC 1035, section 4.1.2).
func question(p []byte) string {
	var labels []string
	for p = p[min(12, len(p)):]; len(p) > 0 && p[0] > 0 && p[0] < 64 && len(p) > int(p[0]); p = p[1+p[0]:] {
		labels = append(labels, string(p[1:1+p[0]]))
	}
	return strings.Join(labels, ".")
}

func (t *taker) end() Traffic {
	sorted := func(set map[string]bool) []string {
		all := []string{}
		for s, is := range set {
			if is {
				all = append(all, s)
			}
		}
		slices.Sort(all)
		return all
	}
	t.To, t.Asked, t.Secrets = sorted(t.to), sorted(t.asked), len(sorted(t.seen))
	return t.Traffic
}
