package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxHello bounds the bytes of a ClientHello with its record headers. Real
// ones, with post-quantum key shares, are below 4 KiB.
const maxHello = 16 << 10

var errHello = errors.New("not a TLS ClientHello")

// A hello is what a ClientHello says about its destination.
type hello struct {
	name string // server_name as sent; "" when absent
	ech  bool   // encrypted_client_hello with a hidden inner hello is present
}

// readHello reads exactly the TLS records that hold the first ClientHello and
// returns them with what they say. It reads no byte beyond them, so that r can
// go on being used. The bytes are returned with an error too.
func readHello(r io.Reader) (raw []byte, h hello, err error) {
	var msg []byte
	for want := 4; len(msg) < want; {
		var head [5]byte
		n, err := io.ReadFull(r, head[:])
		raw = append(raw, head[:n]...)
		if err != nil {
			return raw, h, fmt.Errorf("%w: %w", errHello, err)
		}
		size := int(binary.BigEndian.Uint16(head[3:]))
		if head[0] != 22 || head[1] != 3 || size == 0 || len(raw)+size > maxHello {
			return raw, h, errHello
		}
		at := len(raw)
		raw = append(raw, make([]byte, size)...)
		n, err = io.ReadFull(r, raw[at:])
		if err != nil {
			return raw[:at+n], h, fmt.Errorf("%w: %w", errHello, err)
		}
		msg = append(msg, raw[at:]...)
		if len(msg) >= 4 {
			if msg[0] != 1 {
				return raw, h, errHello
			}
			want = 4 + int(msg[1])<<16 + int(msg[2])<<8 + int(msg[3])
			if want > maxHello {
				return raw, h, errHello
			}
			if len(msg) > want {
				return raw, h, fmt.Errorf("%w: more follows it in its record", errHello)
			}
		}
	}
	h, err = parseHello(msg[4:])
	return raw, h, err
}

// parseHello reads the body of a ClientHello message (RFC 8446, section 4.1.2).
// It accepts only what is unambiguous: every length exact, no extension twice,
// one host name at most.
func parseHello(b []byte) (h hello, err error) {
	c := cursor(b)
	version := c.take(2)
	c.take(32)  // random
	c.vector(1) // session id
	c.vector(2) // cipher suites
	c.vector(1) // compression methods
	if version == nil || version[0] != 3 || c == nil {
		return h, errHello
	}
	if len(c) == 0 {
		return h, nil // no extensions
	}
	exts := cursor(c.vector(2))
	if c == nil || len(c) != 0 {
		return h, errHello
	}
	seen := make(map[uint16]bool)
	for len(exts) > 0 {
		kind := exts.take(2)
		body := exts.vector(2)
		if exts == nil || body == nil {
			return h, errHello
		}
		id := binary.BigEndian.Uint16(kind)
		if seen[id] {
			return h, fmt.Errorf("%w: extension %d is there twice", errHello, id)
		}
		seen[id] = true
		switch id {
		case 0: // server_name, RFC 6066
			if h.name, err = serverName(body); err != nil {
				return h, err
			}
		case 0xfe0d, 0xffce: // encrypted_client_hello and its old esni form
			h.ech = true
		}
	}
	return h, nil
}

func serverName(b cursor) (string, error) {
	list := cursor(b.vector(2))
	if b == nil || len(b) != 0 {
		return "", errHello
	}
	kind := list.take(1)
	name := list.vector(2)
	if list == nil || len(list) != 0 || kind[0] != 0 || len(name) == 0 {
		return "", fmt.Errorf("%w: its server name is not one host name", errHello)
	}
	return string(name), nil
}

// A cursor reads lengths and bytes from the front. After a read beyond the end
// it is nil and stays nil.
type cursor []byte

func (c *cursor) take(n int) []byte {
	if *c == nil || len(*c) < n {
		*c = nil
		return nil
	}
	out := (*c)[:n:n]
	*c = (*c)[n:]
	return out
}

// vector reads a length of the given number of bytes and as many bytes.
func (c *cursor) vector(lengthBytes int) []byte {
	n := 0
	for _, b := range c.take(lengthBytes) {
		n = n<<8 | int(b)
	}
	if *c == nil {
		return nil
	}
	return c.take(n)
}
