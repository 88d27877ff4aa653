package egress

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The IANA registries of special-purpose addresses for IPv4 and IPv6 (RFC 6890
// and what was added since), and the metadata services of clouds. What is
// globally reachable there may be dialled.
func TestSpecialPurposeAddresses(t *testing.T) {
	for _, c := range []struct {
		prefix string
		want   class
		name   string
	}{
		{"0.0.0.0/8", special, "this network"},
		{"10.0.0.0/8", private, "private use"},
		{"100.64.0.0/10", private, "shared (carrier-grade NAT)"},
		{"127.0.0.0/8", private, "loopback"},
		{"169.254.0.0/16", special, "link-local"},
		{"172.16.0.0/12", private, "private use"},
		{"192.0.0.0/24", special, "protocol assignments, with DS-Lite and NAT64 discovery"},
		{"192.0.2.0/24", special, "documentation 1"},
		{"192.31.196.0/24", public, "AS112, globally reachable"},
		{"192.52.193.0/24", public, "AMT, globally reachable"},
		{"192.88.99.0/24", special, "6to4 relay, deprecated"},
		{"192.168.0.0/16", private, "private use"},
		{"192.175.48.0/24", public, "AS112, globally reachable"},
		{"198.18.0.0/15", special, "benchmarking"},
		{"198.51.100.0/24", special, "documentation 2"},
		{"203.0.113.0/24", special, "documentation 3"},
		{"224.0.0.0/4", special, "multicast"},
		{"240.0.0.0/4", special, "reserved"},
		{"255.255.255.255/32", special, "broadcast"},
		{"::1/128", private, "loopback"},
		{"::/128", special, "unspecified"},
		{"::ffff:0:0/96", special, "IPv4-mapped: judged as 0.0.0.0"},
		{"::ffff:169.254.169.254/128", special, "IPv4-mapped metadata"},
		{"::ffff:10.0.0.1/128", private, "IPv4-mapped"},
		{"::ffff:8.8.8.8/128", public, "IPv4-mapped"},
		{"::/96", special, "IPv4-compatible"},
		{"::a00:1/128", special, "IPv4-compatible 10.0.0.1"},
		{"::8.8.8.8/128", special, "IPv4-compatible"},
		{"64:ff9b::/96", special, "NAT64"},
		{"64:ff9b:1::/48", special, "local NAT64"},
		{"100::/64", special, "discard-only"},
		{"100:0:0:1::/64", special, "dummy prefix"},
		{"2001::/32", special, "Teredo"},
		{"2001:1::1/128", special, "port control protocol anycast"},
		{"2001:2::/48", special, "benchmarking"},
		{"2001:3::/32", special, "AMT"},
		{"2001:4:112::/48", special, "AS112"},
		{"2001:10::/28", special, "ORCHID"},
		{"2001:20::/28", special, "ORCHIDv2"},
		{"2001:30::/28", special, "drone remote ID"},
		{"2001:db8::/32", special, "documentation"},
		{"2002::/16", special, "6to4"},
		{"2620:4f:8000::/48", public, "AS112, globally reachable"},
		{"3fff::/20", special, "documentation"},
		{"5f00::/16", special, "segment routing"},
		{"fc00::/7", private, "unique local"},
		{"fe80::/10", special, "link-local"},
		{"fec0::/10", special, "site-local, deprecated"},
		{"ff00::/8", special, "multicast"},
		{"169.254.169.254/32", special, "metadata of most clouds"},
		{"169.254.170.2/32", special, "credentials of ECS tasks"},
		{"169.254.170.23/32", special, "credentials of EKS pods"},
		{"fd00:ec2::254/128", special, "metadata of AWS"},
		{"fd00:ec2::23/128", special, "credentials of EKS pods"},
		{"fd20:ce::254/128", special, "metadata of Google Cloud"},
		{"100.100.100.200/32", special, "metadata of Alibaba Cloud"},
		{"168.63.129.16/32", special, "host agent of Azure"},
		{"192.0.0.192/32", special, "metadata of Oracle Cloud"},
		{"8.8.8.8/32", public, ""}, {"1.1.1.1/32", public, ""}, {"2606:4700::1111/128", public, ""}, {"2001:4860:4860::8888/128", public, ""},
	} {
		p := netip.MustParsePrefix(c.prefix)
		first, last := p.Masked().Addr(), lastAddr(p)
		assert.Equal(t, c.want, classify(first), "first of %s: %s", p, c.name)
		switch c.prefix {
		case "::ffff:0:0/96", "::/96", "::/128", "0.0.0.0/8": // hold others
		default:
			assert.Equal(t, c.want, classify(last), "last of %s: %s", p, c.name)
		}
	}
	assert.Equal(t, special, classify(netip.MustParseAddr("fe80::1%eth0")))
	assert.Equal(t, special, classify(netip.Addr{}))
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// No spelling of an address is a name: what resolvers read as one never gets
// that far.
func TestAddressSpellings(t *testing.T) {
	for _, s := range []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0X7F.1", "0177.0.0.1", "017700000001", "127.0.0.1.",
		"127.0.0.0x1", "0", "0.0", "0x", "1.2.3.0X", "[::1]", "::1", "::ffff:127.0.0.1", "fe80::1%lo", "169.254.43518", "a.1", "1.2.3.4.5",
		"１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1",
	} {
		_, err := Canonical(s)
		assert.Error(t, err, s)
	}
	// Names that only look like one, or lead to one: their addresses are judged.
	for _, s := range []string{"127.0.0.1.nip.io", "0x7f.example.com", "1e100.net", "metadata.google.internal"} {
		_, err := Canonical(s)
		assert.NoError(t, err, s)
	}
}
