package governance

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A reviewer decides by what a text looks like, a policy by what it is. What
// makes the two differ is reported: characters that cannot be seen or that turn
// the order of others (an error, where a person wrote them), and letters that
// look like others (a warning).

// hidden reports whether a character cannot be seen, or changes how the text
// around it is shown: controls, zero-width and bidirectional formatting
// characters, fillers, tags and noncharacters. Line ends and tabs are none.
func hidden(r rune) bool {
	switch {
	case r == '\n' || r == '\r' || r == '\t':
		return false
	case r < 0x20 || r >= 0x7f && r < 0xa0: // controls
		return true
	case r < 0xa0:
		return false
	case unicode.In(r, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp, unicode.Variation_Selector, unicode.Noncharacter_Code_Point):
		return true
	}
	switch r {
	case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x3164, 0xffa0, 0x2800: // fillers
		return true
	}
	return false
}

// hiddenIn finds the first hidden character of a text, or -1.
func hiddenIn(text string) (offset int, r rune) {
	if ascii(text) && strings.IndexFunc(text, hidden) < 0 {
		return -1, 0
	}
	var last rune
	for i, r := range text {
		// An emoji may be joined to another, or be told that it is one.
		joins := (r == 0x200d || r == 0xfe0f) && (last == 0xfe0f || unicode.In(last, unicode.So, unicode.Sk))
		if hidden(r) && !joins {
			return i, r
		}
		last = r
	}
	return -1, 0
}

func hiddenMessage(r rune) string {
	return fmt.Sprintf("the character %U cannot be seen, or changes what is seen around it", r)
}

// lookalike says why a text may be taken for another, or "".
func lookalike(text string) (code, why string) {
	if ascii(text) {
		return "", ""
	}
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) }) {
		scripts := scriptsOf(word)
		if len(scripts) > 1 && !customary(scripts) {
			return "mixed-script", fmt.Sprintf("%q mixes letters of %s", word, strings.Join(scripts, " and "))
		}
		if len(scripts) == 1 && scripts[0] != "Latin" && allLikeLatin(word) {
			return "confusable", fmt.Sprintf("%q is %s and looks like Latin", word, scripts[0])
		}
	}
	if n := norm.NFKC.String(text); n != text {
		return "confusable", fmt.Sprintf("%q is not in normal form: %q looks like it and is another text", text, n)
	}
	return "", ""
}

func ascii(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// scriptsOf returns the scripts of a word's letters, sorted.
func scriptsOf(word string) []string {
	var out []string
	for _, r := range word {
		for name, table := range unicode.Scripts {
			if name != "Common" && name != "Inherited" && unicode.Is(table, r) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// customary are the mixtures that writing systems have (Unicode TS 39, "highly
// restrictive").
func customary(scripts []string) bool {
	for _, set := range [][]string{
		{"Latin", "Han", "Hiragana", "Katakana"},
		{"Latin", "Han", "Bopomofo"},
		{"Latin", "Han", "Hangul"},
	} {
		if !slices.ContainsFunc(scripts, func(s string) bool { return !slices.Contains(set, s) }) {
			return true
		}
	}
	return false
}

// likeLatin are letters of other scripts that are drawn like a Latin one.
const likeLatin = "авеікмнорстухԁѕјһԛԝӏґьАВЕІКМНОРСТУХЅЈԌԚԜӀ" + // Cyrillic
	"ονρυκιαΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" + // Greek
	"օսոցհյզՕՍՏԼ" + // Armenian
	"ᎪᎬᎳᎷᏀᏃᏔᏞᏟᏢᏦᏴ" // Cherokee

func allLikeLatin(word string) bool {
	for _, r := range word {
		if !strings.ContainsRune(likeLatin, r) {
			return false
		}
	}
	return true
}

// characters reports the texts and ids of a policy that may be taken for
// others. Annotations are prose and may hold any letters.
func (c *compiler) characters(p *policy) {
	if ascii(p.text) {
		return
	}
	eachText(p.text, func(offset int, raw string) {
		if ascii(raw) {
			return // what is written as an escape is seen for what it is
		}
		if code, why := lookalike(cedarUnescape(raw)); code != "" {
			f := located(code, p.src.Name, "", "", why, "write it in one script and in normal form; an escape such as \\u{430} shows what is meant, and a permit that lists what is allowed needs neither")
			f.Severity, f.Policy = SeverityWarning, p.id
			f.Line, f.Column = p.where.at(p.start + offset)
			c.rep.add(f)
		}
	})
}

// eachText calls f for the string literals of a policy, as written, after its
// annotations.
func eachText(text string, f func(offset int, raw string)) {
	begun := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '/' && strings.HasPrefix(text[i:], "//"):
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == '"':
			start := i
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if begun && i < len(text) {
				f(start, text[start+1:i])
			}
		case !begun && isWord(c):
			word := text[i:]
			for i+1 < len(text) && isWord(text[i+1]) {
				i++
			}
			word = word[:i+1-(len(text)-len(word))]
			begun = word == "permit" || word == "forbid"
		}
	}
}

// cedarUnescape reads the \u{…} of Cedar's strings; other escapes stand for ASCII.
func cedarUnescape(raw string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(raw, `\u{`)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		code, rest, _ := strings.Cut(after, "}")
		if n, err := strconv.ParseUint(code, 16, 32); err == nil {
			b.WriteRune(rune(n))
		}
		raw = rest
	}
}
