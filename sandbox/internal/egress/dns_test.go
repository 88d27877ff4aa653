package egress

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

func TestDNSAnswersAllowedNamesOnly(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", []uint16{443}), allow("*.example.com", []uint16{443})}, nil)

	a := in.addr("tools.local")
	assert.True(t, synthetic.Contains(a))
	for _, spelling := range []string{"TOOLS.local.", "tools.LOCAL.", "tOoLs.LoCaL."} {
		assert.Equal(t, a, in.addr(spelling), spelling)
	}
	b, c := in.addr("b.example.com"), in.addr("c.example.com")
	assert.NotEqual(t, a, b)
	assert.NotEqual(t, b, c)
	assert.Equal(t, b, in.addr("b.example.com"), "a name keeps its address")

	for _, kind := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeTXT, dnsmessage.TypeMX, 65, dnsmessage.TypeALL} {
		m := in.ask("tools.local.", kind)
		assert.Equal(t, dnsmessage.RCodeSuccess, m.RCode, "the name exists")
		assert.Empty(t, m.Answers, "%v", kind)
	}
	assert.Empty(t, in.log.Records(), "resolving an allowed name does nothing yet")

	m := in.ask("tools.local.", dnsmessage.TypeA)
	assert.True(t, m.Response)
	assert.EqualValues(t, 77, m.ID)
	assert.Equal(t, "tools.local.", m.Questions[0].Name.String())

	for _, name := range []string{"example.com.", "a.b.example.com.", "tools.local.evil.com.", "x-tools.local.", "local.", ".",
		"1.2.0.192.in-addr.arpa.", "tools_local.", "evil.com\x00.example.com.", "b\xff.example.com.", "*.example.com."} {
		m := in.ask(name, dnsmessage.TypeA)
		assert.Equal(t, dnsmessage.RCodeNameError, m.RCode, "%q", name)
		assert.Empty(t, m.Answers, "%q", name)
	}
}

func TestDNSRefusalsAreRecordedAndFloodsCounted(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", []uint16{443})}, nil)
	for range 3 {
		in.ask("secret.evil.com.", dnsmessage.TypeA)
		in.ask("secret.evil.com.", dnsmessage.TypeTXT)
	}
	d := in.log.Denials()
	require.Len(t, d, 1)
	assert.Equal(t, `Host::"secret.evil.com"`, d[0].Resource)
	assert.Equal(t, "connect", d[0].Action)
	assert.Equal(t, CauseName, d[0].Decision.Reason)
	assert.Equal(t, theActor, d[0].Actor)
	assert.Equal(t, "sha256:test", d[0].Decision.PolicyHash)
	assert.NotEmpty(t, d[0].Decision.ID)
	assert.Equal(t, map[string]string{"protocol": "dns", "type": "TypeA"}, d[0].Detail)

	for i := range denialsAll + 50 {
		in.ask(fmt.Sprintf("c%d.evil.com.", i), dnsmessage.TypeTXT)
	}
	require.Len(t, in.log.Denials(), denialsAll)
	// A flood of one kind does not hide another kind.
	in.refused(in.dialAddr(netip.MustParseAddr("93.184.216.34"), 443))
	require.Len(t, in.log.Denials(), denialsAll+1)

	in.closed()
	d = in.log.Denials()
	require.Len(t, d, denialsAll+3)
	rest := d[denialsAll+1:]
	assert.Equal(t, `Host::"*"`, rest[0].Resource)
	assert.Equal(t, "51", rest[0].Detail["repeated"])
	assert.Equal(t, `Host::"secret.evil.com"`, rest[1].Resource)
	assert.Equal(t, "5", rest[1].Detail["repeated"])
}

func TestDNSNamesRunOut(t *testing.T) {
	in := newInside(t, []Rule{allow("**.example.com", []uint16{443})}, nil)
	last := maxNames
	for i := range last {
		_, ok := in.door.names.address(fmt.Sprintf("n%d.example.com", i), maxNames)
		require.True(t, ok)
	}
	m := in.ask("more.example.com.", dnsmessage.TypeA)
	assert.Equal(t, dnsmessage.RCodeNameError, m.RCode)
	assert.Equal(t, []string{CauseNames + ` Host::"more.example.com"`}, causes(in.log.Records()))
	assert.True(t, synthetic.Contains(in.addr(fmt.Sprintf("n%d.example.com", last-1))))
}

func TestDNSOverTCP(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", []uint16{443})}, nil)
	c, err := net.Dial("tcp", in.dnsT.String())
	require.NoError(t, err)
	defer c.Close()
	ask := func(q []byte) (dnsmessage.Message, error) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
		var m dnsmessage.Message
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return m, err
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		_, err := io.ReadFull(c, b)
		require.NoError(t, err)
		return m, m.Unpack(b)
	}
	m, err := ask(question(t, "tools.local.", dnsmessage.TypeA))
	require.NoError(t, err)
	assert.Len(t, m.Answers, 1)
	m, err = ask(question(t, "example.com.", dnsmessage.TypeA))
	require.NoError(t, err)
	assert.Equal(t, dnsmessage.RCodeNameError, m.RCode)
	_, err = ask(make([]byte, maxQuery+1))
	assert.Error(t, err, "too long a query ends the connection")
}

func TestDNSOddQueries(t *testing.T) {
	lookup := func(string) (netip.Addr, bool) { return netip.AddrFrom4([4]byte{198, 18, 1, 0}), true }
	rcode := func(m dnsmessage.Message) any {
		b, err := m.Pack()
		require.NoError(t, err)
		reply, refused := answer(b, lookup)
		assert.Nil(t, refused)
		if reply == nil {
			return nil
		}
		var r dnsmessage.Message
		require.NoError(t, r.Unpack(reply))
		assert.Empty(t, r.Answers)
		return r.RCode
	}
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("a.b."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	chaos := q
	chaos.Class = dnsmessage.ClassCHAOS
	one, two := []dnsmessage.Question{q}, []dnsmessage.Question{q, q}
	assert.Nil(t, rcode(dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Questions: one}), "an answer gets no answer")
	assert.Equal(t, dnsmessage.RCodeFormatError, rcode(dnsmessage.Message{}))
	assert.Equal(t, dnsmessage.RCodeFormatError, rcode(dnsmessage.Message{Questions: two}))
	assert.Equal(t, dnsmessage.RCodeRefused, rcode(dnsmessage.Message{Questions: []dnsmessage.Question{chaos}}))
	assert.Equal(t, dnsmessage.RCodeNotImplemented, rcode(dnsmessage.Message{Header: dnsmessage.Header{OpCode: 5}, Questions: one}))
	for _, b := range [][]byte{nil, make([]byte, 11), make([]byte, maxQuery+1)} {
		reply, _ := answer(b, lookup)
		assert.Nil(t, reply)
	}
}

// FuzzDNS checks that no query, however made, gets an address for a name that
// is not allowed, or a reply that says more than was asked.
func FuzzDNS(f *testing.F) {
	f.Add(question(f, "tools.local.", dnsmessage.TypeA))
	f.Add(question(f, "evil.com.", dnsmessage.TypeTXT))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x05tools\x05local\x00\x00\x01\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, query []byte) {
		asked := ""
		reply, refused := answer(query, func(name string) (netip.Addr, bool) {
			asked = name
			return netip.AddrFrom4([4]byte{198, 18, 1, 0}), name == "tools.local"
		})
		if reply == nil {
			return
		}
		if len(reply) > 512 {
			t.Fatalf("%d bytes", len(reply))
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if !m.Response || len(m.Answers) > 1 || len(m.Questions) > 1 || len(m.Authorities)+len(m.Additionals) > 0 {
			t.Fatalf("%+v", m)
		}
		if len(m.Answers) == 1 && (asked != "tools.local" || refused != nil ||
			!strings.EqualFold(strings.TrimSuffix(m.Questions[0].Name.String(), "."), "tools.local")) {
			t.Fatalf("an address for %q: %+v", asked, m)
		}
		if (refused != nil) != (m.RCode == dnsmessage.RCodeNameError) {
			t.Fatalf("refused %+v and %v", refused, m.RCode)
		}
	})
}
