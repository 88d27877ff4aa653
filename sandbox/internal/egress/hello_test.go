package egress

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// clientHello returns the first flight of crypto/tls, as one or more records.
func clientHello(t testing.TB, c *tls.Config) []byte {
	near, far := net.Pipe()
	go func() {
		tls.Client(near, c).Handshake()
	}()
	raw, _, err := readHello(far)
	require.NoError(t, err)
	far.Close()
	return raw
}

func TestReadHello(t *testing.T) {
	raw := clientHello(t, &tls.Config{ServerName: "Api.Example.com"})
	got, h, err := readHello(io.MultiReader(bytes.NewReader(raw), bytes.NewReader([]byte("more"))))
	require.NoError(t, err)
	assert.Equal(t, raw, got, "not a byte beyond the hello")
	assert.Equal(t, hello{name: "Api.Example.com"}, h)

	_, h, err = readHello(bytes.NewReader(clientHello(t, &tls.Config{InsecureSkipVerify: true})))
	require.NoError(t, err)
	assert.Empty(t, h.name)

	// The message may be cut into records anywhere.
	msg := raw[5:]
	for _, cut := range []int{1, 3, 4, 5, 40, len(msg) - 1} {
		two := append(record(msg[:cut]), record(msg[cut:])...)
		got, h, err := readHello(bytes.NewReader(two))
		require.NoError(t, err, "%d", cut)
		assert.Equal(t, two, got)
		assert.Equal(t, "Api.Example.com", h.name)
	}
	for n := range len(raw) {
		_, _, err := readHello(bytes.NewReader(raw[:n]))
		require.ErrorIs(t, err, errHello, "%d bytes", n)
	}
	for name, bad := range map[string][]byte{
		"http":            []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
		"sslv2":           {0x80, 0x2e, 1, 0, 2, 0, 0, 0, 0, 0},
		"alert":           {21, 3, 1, 0, 2, 2, 40},
		"empty record":    {22, 3, 1, 0, 0},
		"server hello":    record([]byte{2, 0, 0, 1, 0}),
		"huge":            record([]byte{1, 0xff, 0xff, 0xff}),
		"trailing":        record(append(bytes.Clone(msg), 1)),
		"endless records": bytes.Repeat(record([]byte{1}), 20000),
	} {
		_, _, err := readHello(bytes.NewReader(bad))
		assert.ErrorIs(t, err, errHello, name)
	}
}

func TestParseHelloIsUnambiguous(t *testing.T) {
	sni := func(names ...string) []byte {
		var list []byte
		for _, n := range names {
			list = append(append(list, 0), vec(2, []byte(n))...)
		}
		return ext(0, vec(2, list))
	}
	ok := func(exts ...[]byte) (hello, error) { return parseHello(helloBody(exts...)) }

	h, err := ok(sni("a.com"), ext(10, []byte{0, 2, 0, 29}))
	require.NoError(t, err)
	assert.Equal(t, hello{name: "a.com"}, h)
	h, err = ok(sni("a.com"), ext(0xfe0d, []byte{0, 1, 2}))
	require.NoError(t, err)
	assert.Equal(t, hello{name: "a.com", ech: true}, h)
	h, err = parseHello(helloBody()[:len(helloBody())-2])
	require.NoError(t, err, "no extensions at all")
	assert.Equal(t, hello{}, h)

	for name, b := range map[string][]byte{
		"two server_name extensions": helloBody(sni("a.com"), sni("b.com")),
		"two names":                  helloBody(sni("a.com", "b.com")),
		"no name":                    helloBody(sni()),
		"empty name":                 helloBody(sni("")),
		"other name type":            helloBody(ext(0, vec(2, append([]byte{1}, vec(2, []byte("a.com"))...)))),
		"bytes after the list":       helloBody(ext(0, append(vec(2, append([]byte{0}, vec(2, []byte("a.com"))...)), 9))),
		"bytes after the extensions": append(helloBody(sni("a.com")), 0),
		"other extension twice":      helloBody(ext(10, nil), ext(10, nil)),
		"version 2":                  append([]byte{2, 0}, helloBody()[2:]...),
	} {
		_, err := parseHello(b)
		assert.ErrorIs(t, err, errHello, name)
	}
}

func record(b []byte) []byte { return append([]byte{22, 3, 1}, vec(2, b)...) }

func vec(n int, b []byte) []byte {
	size := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	return append(size[4-n:], b...)
}

func ext(id uint16, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), vec(2, body)...)
}

func helloBody(exts ...[]byte) []byte {
	b := append([]byte{3, 3}, make([]byte, 32)...)
	b = append(b, vec(1, nil)...)
	b = append(b, vec(2, []byte{0x13, 1})...)
	b = append(b, vec(1, []byte{0})...)
	return append(b, vec(2, bytes.Join(exts, nil))...)
}

// FuzzHello checks that whatever we accept, crypto/tls understands as the same
// name: a difference would let a program ask for one name and be heard as another.
func FuzzHello(f *testing.F) {
	f.Add(clientHello(f, &tls.Config{ServerName: "a.example.com"}))
	f.Add(clientHello(f, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}))
	f.Add(append(record([]byte{1, 0}), record([]byte{0, 0})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, h, err := readHello(bytes.NewReader(b))
		if !bytes.HasPrefix(b, raw) || len(raw) > maxHello+5 {
			t.Fatalf("read %d bytes of %d", len(raw), len(b))
		}
		if err != nil {
			return
		}
		theirs, understood := "", false
		tls.Server(onlyRead{bytes.NewReader(raw)}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs, understood = i.ServerName, true
			return nil, io.EOF
		}}).Handshake()
		if understood && theirs != h.name {
			t.Fatalf("we read %q, crypto/tls %q", h.name, theirs)
		}
	})
}

type onlyRead struct{ io.Reader }

func (onlyRead) Write(p []byte) (int, error)      { return len(p), nil }
func (onlyRead) Close() error                     { return nil }
func (onlyRead) LocalAddr() net.Addr              { return nil }
func (onlyRead) RemoteAddr() net.Addr             { return nil }
func (onlyRead) SetDeadline(time.Time) error      { return nil }
func (onlyRead) SetReadDeadline(time.Time) error  { return nil }
func (onlyRead) SetWriteDeadline(time.Time) error { return nil }
