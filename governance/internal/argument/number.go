package argument

import (
	"cmp"
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// A number is a JSON number, exactly: 0.digits × 10^point, where digits has no
// zero at either end. Zero has no digits and no sign.
type number struct {
	neg    bool
	digits string
	point  int
}

var (
	errNumberSize = errors.New("a number with more digits than can be decided on exactly")
	errNotWhole   = errors.New("not a whole number")
	errTooBig     = errors.New("out of range")
	errTooFine    = errors.New("has more than four decimal places")
)

const maxDigits = 64

// parseNumber reads a word that is a JSON number.
func parseNumber(word string) (number, error) {
	var n number
	mantissa, exponent := word, 0
	if i := strings.IndexAny(word, "eE"); i >= 0 {
		e, err := strconv.Atoi(word[i+1:])
		if err != nil || len(word)-i > 6 {
			return n, errNumberSize
		}
		mantissa, exponent = word[:i], e
	}
	mantissa, n.neg = strings.CutPrefix(mantissa, "-")
	whole, frac, _ := strings.Cut(mantissa, ".")
	if len(whole)+len(frac) > maxDigits {
		return n, errNumberSize
	}
	n.point = len(whole) + exponent
	n.digits = whole
	if frac = strings.TrimRight(frac, "0"); frac != "" {
		n.digits = whole + frac
	}
	trimmed := strings.TrimLeft(n.digits, "0")
	n.point -= len(n.digits) - len(trimmed)
	n.digits = strings.TrimRight(trimmed, "0")
	if n.digits == "" {
		return number{}, nil
	}
	return n, nil
}

// scaled is the number times 10^scale as an int64.
func (n number) scaled(scale int) (int64, error) {
	if n.digits == "" {
		return 0, nil
	}
	point := n.point + scale
	if point < len(n.digits) {
		return 0, errNotWhole
	}
	if point > 19 {
		return 0, errTooBig
	}
	var u uint64 // at most 19 digits: no overflow
	for i := range point {
		u *= 10
		if i < len(n.digits) {
			u += uint64(n.digits[i] - '0')
		}
	}
	switch {
	case !n.neg && u <= math.MaxInt64:
		return int64(u), nil
	case n.neg && u <= math.MaxInt64+1:
		return -int64(u), nil // also for the smallest, which is its own negative
	}
	return 0, errTooBig
}

func (n number) decimal() (types.Decimal, error) {
	v, err := n.scaled(4)
	if errors.Is(err, errNotWhole) {
		err = errTooFine
	}
	if err != nil {
		return types.Decimal{}, err
	}
	return types.NewDecimal(v, -4)
}

// append writes the number in its one canonical form: as people write it while
// that is short, else with an exponent.
func (n number) append(dst []byte) []byte {
	if n.digits == "" {
		return append(dst, '0')
	}
	if n.neg {
		dst = append(dst, '-')
	}
	switch {
	case n.point > 0 && n.point <= 21:
		for i := range max(n.point, len(n.digits)) {
			if i == n.point {
				dst = append(dst, '.')
			}
			if i < len(n.digits) {
				dst = append(dst, n.digits[i])
			} else {
				dst = append(dst, '0')
			}
		}
		return dst
	case n.point <= 0 && n.point > -6:
		dst = append(dst, "0.00000"[:2-n.point]...)
		return append(dst, n.digits...)
	}
	dst = append(dst, n.digits[0])
	if len(n.digits) > 1 {
		dst = append(append(dst, '.'), n.digits[1:]...)
	}
	dst = append(dst, 'e')
	return strconv.AppendInt(dst, int64(n.point-1), 10)
}

// cmp compares exactly: -1, 0 or 1.
func (n number) cmp(m number) int {
	sign := func(x number) int {
		switch {
		case x.digits == "":
			return 0
		case x.neg:
			return -1
		}
		return 1
	}
	s := sign(n)
	if c := cmp.Compare(s, sign(m)); c != 0 || s == 0 {
		return c
	}
	// No zero at either end: the digits compare as text.
	return s * cmp.Or(cmp.Compare(n.point, m.point), strings.Compare(n.digits, m.digits))
}

// multipleOf reports whether n is a whole multiple of m, which is above 0.
// Numbers so far apart that telling takes long are none.
func (n number) multipleOf(m number) bool {
	if n.digits == "" {
		return true
	}
	// n and m as whole numbers of the smaller of their units.
	unit := min(n.point-len(n.digits), m.point-len(m.digits))
	if n.point-unit > 512 || m.point-unit > 512 {
		return false
	}
	whole := func(x number) *big.Int {
		i, _ := new(big.Int).SetString(x.digits+strings.Repeat("0", x.point-len(x.digits)-unit), 10)
		return i
	}
	return new(big.Int).Rem(whole(n), whole(m)).Sign() == 0
}
