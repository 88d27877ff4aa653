package argument

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"
)

// formatted reads a string whose format has a Cedar type, exactly or not at all.
func formatted(k Kind, s string) (types.Value, error) {
	switch k {
	case KindTime:
		return instant(s)
	case KindDate:
		return date(s)
	}
	return address(k, s)
}

var (
	errInstant = errors.New("not a date and time such as 2006-01-02T15:04:05Z")
	errDate    = errors.New("not a date such as 2006-01-02")
	errMillis  = errors.New("a time finer than a millisecond")
)

// instant reads a date-time of RFC 3339. time.Parse alone takes more than that,
// and each parser takes something else.
func instant(s string) (types.Value, error) {
	if !shaped(s, "dddd-dd-ddTdd:dd:dd") {
		return nil, errInstant
	}
	rest := s[len("2006-01-02T15:04:05"):]
	if strings.HasPrefix(rest, ".") {
		n := 1
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		if n == 1 {
			return nil, errInstant
		}
		if len(strings.TrimRight(rest[1:n], "0")) > 3 {
			return nil, errMillis
		}
		rest = rest[n:]
	}
	if rest != "Z" && !shaped(rest, "+dd:dd") && !shaped(rest, "-dd:dd") || len(rest) > len("+00:00") {
		return nil, errInstant
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return nil, errInstant
	}
	return types.NewDatetime(t), nil
}

// date reads a full-date of RFC 3339, as its midnight in UTC.
func date(s string) (types.Value, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || !shaped(s, "dddd-dd-dd") {
		return nil, errDate
	}
	return types.NewDatetime(t), nil
}

// shaped reports whether s begins with shape, in which d is any digit.
func shaped(s, shape string) bool {
	if len(s) < len(shape) {
		return false
	}
	for i := range len(shape) {
		if shape[i] == 'd' && s[i] >= '0' && s[i] <= '9' || shape[i] != 'd' && shape[i] == s[i] {
			continue
		}
		return false
	}
	return true
}

// address reads an IP address of the family that the format names. An IPv4
// address written as IPv6 is refused: no range of IPv4 would match it.
func address(k Kind, s string) (types.Value, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case k == KindIPv4 && (err != nil || !a.Is4()):
		return nil, errors.New("not an IPv4 address")
	case k == KindIPv6 && (err != nil || !a.Is6() || a.Zone() != ""):
		return nil, errors.New("not an IPv6 address")
	case a.Is4In6():
		return nil, errors.New("an IPv4 address written as IPv6")
	}
	return types.IPAddr(netip.PrefixFrom(a, a.BitLen())), nil
}
