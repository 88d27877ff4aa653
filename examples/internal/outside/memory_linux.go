package outside

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// forms are a secret as it is, in hexadecimal, and what is always the same of it
// in base64, wherever in a longer text it begins.
func forms(secret string) (all [][]byte) {
	all = append(all, []byte(secret), fmt.Appendf(nil, "%x", secret))
	for before := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
		from := (before*8 + 5) / 6
		all = append(all, []byte(text[from:(before+len(secret))*8/6]))
	}
	return all
}

// SearchMemory counts those of the secrets that are in the memory of a process,
// and the bytes that were read.
func SearchMemory(pid int, secrets []string) (found int, read int64, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, 0, err
	}
	defer mem.Close()
	seen := map[string]bool{}
	const block, overlap = 1 << 20, 4 << 10
	buf, empty := make([]byte, block), make([]byte, block)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		var may string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &may); err != nil {
			return 0, 0, err
		}
		// What it has written, but for the address space that the race detector keeps
		// books in: a heap like these is far smaller.
		if !strings.HasPrefix(may, "rw") || to-from > 1<<30 {
			continue
		}
		for at := from; at < to; at += block - overlap {
			n, err := mem.ReadAt(buf[:min(block, to-at)], int64(at))
			if n == 0 && err != nil && err != io.EOF {
				break // such as [vvar]
			}
			read += int64(n)
			if bytes.Equal(buf[:n], empty[:n]) {
				continue
			}
			for _, secret := range secrets {
				for _, form := range forms(secret) {
					seen[secret] = seen[secret] || bytes.Contains(buf[:n], form)
				}
			}
		}
	}
	if read == 0 {
		return 0, 0, errors.New("nothing of the memory could be read")
	}
	for _, is := range seen {
		if is {
			found++
		}
	}
	return found, read, nil
}
