package egress

import "net/netip"

// class says how far an address may be trusted as a destination.
type class int

const (
	public  class = iota
	private       // loopback, private, shared or unique-local: needs the word "private" in the rule
	special       // never a destination
)

// privateRanges may be dialled for a rule that says so.
var privateRanges = prefixes(
	"127.0.0.0/8", "::1/128",
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
	"100.64.0.0/10",
	"fc00::/7",
)

// specialRanges are never dialled: nothing that a name should lead to lives
// there, and some of it leads back to this machine or to the credentials of the
// cloud it runs in. IPv6 outside 2000::/3 is special too unless it is listed as
// private, which covers link-local, site-local, multicast and both NAT64 prefixes.
var specialRanges = prefixes(
	"0.0.0.0/8",                                                                       // "this host" on Linux
	"169.254.0.0/16",                                                                  // link-local, the metadata services
	"100.100.100.200/32",                                                              // metadata of Alibaba Cloud
	"168.63.129.16/32",                                                                // Azure's host agent
	"fd00:ec2::/32",                                                                   // metadata of AWS
	"fd20:ce::/32",                                                                    // metadata of Google Cloud
	"192.0.0.0/24",                                                                    // protocol assignments, the metadata service of Oracle Cloud
	"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20", // documentation
	"192.88.99.0/24", "2002::/16", // 6to4: carries an IPv4 address
	"2001::/23",                  // Teredo, ORCHID, benchmarking
	"198.18.0.0/15",              // benchmarking; our own synthetic addresses
	"224.0.0.0/4", "240.0.0.0/4", // multicast, reserved, broadcast
)

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// classify says what kind of destination an address is. IPv4 in IPv6 clothes
// is judged as the IPv4 address that it is.
func classify(a netip.Addr) class {
	if a.Zone() != "" || !a.IsValid() {
		return special
	}
	a = a.Unmap()
	switch {
	case within(specialRanges, a):
		return special
	case within(privateRanges, a):
		return private
	case a.Is6() && !globalUnicast6.Contains(a):
		return special
	}
	return public
}

func within(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}
