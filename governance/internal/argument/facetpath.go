package argument

import (
	"errors"
	"path"
	"regexp"
	"strings"
	"unicode"

	"github.com/cedar-policy/cedar-go/types"
	"golang.org/x/text/unicode/norm"
)

var (
	pathScheme  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
	pathPercent = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// lookAlikes of "/" and "\", beyond those that form KC resolves.
const lookAlikes = "\u1735\u2044\u2215\u2216\u2571\u2572\u27cb\u27cd\u29f5\u29f8\u29f9\u2cc6"

// cleanPath resolves a path as text. See CleanPath for what it refuses.
func cleanPath(s string) (types.Value, error) {
	switch {
	case s == "":
		return nil, errors.New("an empty path")
	case len(s) > 4096:
		return nil, errors.New("a path of more than 4096 bytes")
	case strings.ContainsRune(s, '\\'):
		return nil, errors.New(`a path with a backslash`)
	case pathPercent.MatchString(s):
		return nil, errors.New("a path with a percent escape")
	case strings.HasPrefix(s, "~"):
		return nil, errors.New(`a path that begins with "~"`)
	case strings.HasPrefix(s, "//"):
		return nil, errors.New(`a path that begins with "//"`)
	case pathScheme.MatchString(s):
		return nil, errors.New("a path with a scheme or drive letter")
	case !norm.NFC.IsNormalString(s):
		return nil, errors.New("a path that is not in Unicode's form C")
	}
	for _, r := range s {
		if r < 0x80 && r >= ' ' && r != 0x7f {
			continue
		}
		if !unicode.IsGraphic(r) || invisible(r) || unicode.Is(unicode.Zs, r) || strings.ContainsRune(lookAlikes, r) ||
			strings.ContainsAny(norm.NFKC.String(string(r)), `/\.~%:`) {
			return nil, errors.New("a path with a character that can be read in more than one way")
		}
	}
	for part := range strings.SplitSeq(s, "/") {
		if part != "" && part != "." && part != ".." && (strings.HasSuffix(part, ".") || part != strings.Trim(part, " ")) {
			return nil, errors.New("a path with a part that ends in a dot, or begins or ends with a space")
		}
	}
	return types.String(path.Clean(s)), nil
}

// invisible reports whether a character is not seen in text, but is there.
func invisible(r rune) bool {
	return unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || unicode.Is(unicode.Variation_Selector, r)
}
