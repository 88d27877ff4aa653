package egress

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxScan bounds the descriptors that are looked at for one connection, and
	// maxTable the bytes of the room's table of sockets.
	maxScan    = 64 << 10
	maxTable   = 8 << 20
	maxProgram = 1 << 30 // bytes of an executable that is hashed
	// Descriptors on their way between processes are in no process's table.
	flightTries = 5
	flightWait  = 2 * time.Millisecond
)

// A room is a session's processes and files, seen through /proc. The host may
// look because it owns the session's user namespace, or is root; what it may not
// see (a process that hides its memory) makes every look fail.
type room struct {
	init string // /proc/<pid of init>

	mu   sync.Mutex
	sums map[fileID]string
}

func newRoom(init int) *room {
	return &room{init: "/proc/" + strconv.Itoa(init), sums: make(map[fileID]string)}
}

// holders returns the processes that hold the other end of c, ordered by pid.
func (m *room) holders(c net.Conn) ([]holder, error) {
	if err := m.noneHidden(); err != nil {
		return nil, err
	}
	inode, err := m.socket(c)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		hs, flying, err := m.scan("socket:[" + inode + "]")
		if err != nil || !flying {
			if err == nil && len(hs) == 0 {
				err = fmt.Errorf("%w: nobody holds it any more", errHolders)
			}
			return hs, err
		}
		if try == flightTries {
			return nil, fmt.Errorf("%w: descriptors are being passed between processes", errHolders)
		}
		time.Sleep(flightWait)
	}
}

// socket finds the inode of the program's socket: the one whose addresses are
// those of c the other way round.
func (m *room) socket(c net.Conn) (string, error) {
	here, ok1 := c.LocalAddr().(*net.TCPAddr)
	there, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return "", errHolders
	}
	to, from := here.AddrPort(), there.AddrPort()
	for _, table := range []struct {
		file string
		v6   bool
	}{{"/net/tcp", false}, {"/net/tcp6", true}} {
		local, okL := procAddr(from, table.v6)
		remote, okR := procAddr(to, table.v6)
		if !okL || !okR {
			continue
		}
		f, err := os.Open(m.init + table.file)
		if err != nil {
			return "", fmt.Errorf("%w: %w", errHolders, err)
		}
		inode := ""
		lines := bufio.NewScanner(io.LimitReader(f, maxTable))
		for lines.Scan() {
			// sl local_address rem_address st queues timer retrnsmt uid timeout inode
			w := strings.Fields(lines.Text())
			if len(w) > 9 && w[1] == local && w[2] == remote && w[9] != "0" {
				inode = w[9]
				break
			}
		}
		f.Close()
		if inode != "" {
			return inode, nil
		}
	}
	return "", fmt.Errorf("%w: its socket is not there", errHolders)
}

// procAddr writes an address as /proc/net/tcp does: 32-bit words in the byte
// order of the machine, and a port.
func procAddr(a netip.AddrPort, v6 bool) (string, bool) {
	ip := a.Addr().Unmap()
	var raw []byte
	switch {
	case v6:
		b := ip.As16()
		raw = b[:]
	case ip.Is4():
		b := ip.As4()
		raw = b[:]
	default:
		return "", false
	}
	var out strings.Builder
	for i := 0; i < len(raw); i += 4 {
		fmt.Fprintf(&out, "%08X", binary.NativeEndian.Uint32(raw[i:]))
	}
	fmt.Fprintf(&out, ":%04X", a.Port())
	return out.String(), true
}

// scan looks at the descriptors of every thread of every process inside but
// init. flying is set when descriptors are on their way in a Unix socket, and so
// in nobody's table.
func (m *room) scan(socket string) (hs []holder, flying bool, err error) {
	proc := m.init + "/root/proc"
	all, err := os.ReadDir(proc)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errHolders, err)
	}
	left := maxScan
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		dir := proc + "/" + e.Name()
		holds, closing, fly, err := m.tables(dir, socket, &left)
		if err != nil {
			if _, gone := os.Stat(dir); os.IsNotExist(gone) || zombie(dir) {
				continue // it has ended meanwhile, and holds nothing
			}
			return nil, false, fmt.Errorf("%w: process %d: %w", errHolders, pid, err)
		}
		flying = flying || fly
		if !holds {
			continue
		}
		h, err := m.process(pid, dir)
		if err != nil {
			return nil, false, fmt.Errorf("%w: process %d: %w", errHolders, pid, err)
		}
		h.closing = closing
		hs = append(hs, h)
	}
	slices.SortFunc(hs, func(a, b holder) int { return a.pid - b.pid })
	return hs, flying, nil
}

// tables looks through the descriptor tables of a process; threads may have
// tables of their own.
func (m *room) tables(dir, socket string, left *int) (holds, closing, flying bool, err error) {
	closing = true
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return false, false, false, err
	}
	for _, t := range threads {
		task := dir + "/task/" + t.Name()
		fds, err := os.ReadDir(task + "/fd")
		if err != nil {
			if _, gone := os.Stat(task); os.IsNotExist(gone) || zombie(task) {
				continue
			}
			return false, false, false, err
		}
		if *left -= len(fds); *left < 0 {
			return false, false, false, fmt.Errorf("more than %d descriptors are open inside", maxScan)
		}
		for _, fd := range fds {
			to, err := os.Readlink(task + "/fd/" + fd.Name())
			if err != nil || !strings.HasPrefix(to, "socket:") {
				continue
			}
			info, err := os.ReadFile(task + "/fdinfo/" + fd.Name())
			if err != nil {
				continue // closed
			}
			if to == socket {
				holds = true
				flags, err := strconv.ParseUint(field(info, "flags:"), 8, 64)
				closing = closing && err == nil && flags&unix.O_CLOEXEC != 0
			}
			if n := field(info, "scm_fds:"); n != "" && n != "0" {
				flying = true
			}
		}
	}
	return holds, closing, flying, nil
}

// field returns the word after a name at the beginning of a line.
func field(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		if v, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

func zombie(dir string) bool {
	b, err := os.ReadFile(dir + "/status")
	return err == nil && strings.HasPrefix(field(b, "State:"), "Z")
}

// process says what a process runs.
func (m *room) process(pid int, dir string) (holder, error) {
	h := holder{pid: pid}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return h, err
	}
	// The second field, the name, may hold anything; the 22nd is the start time.
	rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(rest) < 20 {
		return h, errHolders
	}
	h.started = rest[19]
	if h.path, err = os.Readlink(dir + "/exe"); err != nil {
		return h, err
	}
	fd, err := unix.Open(dir+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return h, err
	}
	defer unix.Close(fd)
	if h.file, err = identify(fd); err != nil {
		return h, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return h, err
	}
	h.fixed = fs.Flags&unix.ST_RDONLY != 0
	h.exe = dir + "/exe"
	return h, nil
}

func identify(fd int) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileID{}, err
	}
	return fileID{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: unix.TimespecToNsec(st.Mtim), ctime: unix.TimespecToNsec(st.Ctim)}, nil
}

// file returns which file a path leads to inside.
func (m *room) file(path string) (dev, ino uint64, err error) {
	root, err := unix.Open(m.init+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	id, err := identify(fd)
	return id.dev, id.ino, err
}

// known returns the SHA-256 of a file that was hashed in the state id, or "".
func (m *room) known(id fileID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sums[id]
}

// hash learns the SHA-256 of a holder's executable: once for each state of a
// file.
func (m *room) hash(h holder) error {
	if m.known(h.file) != "" {
		return nil
	}
	f, err := os.Open(h.exe)
	if err != nil {
		return err
	}
	defer f.Close()
	if h.file.size > maxProgram {
		return fmt.Errorf("%w: its program is too large", errHolders)
	}
	w := sha256.New()
	if _, err := io.Copy(w, io.LimitReader(f, maxProgram)); err != nil {
		return err
	}
	// What was hashed is the file that was asked about, before and after.
	if now, err := identify(int(f.Fd())); err != nil || now != h.file {
		return errHolders
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sums) > 1024 {
		clear(m.sums)
	}
	m.sums[h.file] = hex.EncodeToString(w.Sum(nil))
	return nil
}
