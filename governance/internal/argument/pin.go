package argument

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A pin is an operator's word on how one value reaches policy.
type pin struct {
	said  string
	as    string // long, text, large
	scale int
	used  bool
}

var scaledPin = regexp.MustCompile(`^scaled\(([1-9][0-9]?)\)$`)

func parsePin(s string) (*pin, bool) {
	switch s {
	case "long", "text", "large":
		return &pin{said: s, as: s}, true
	}
	if m := scaledPin.FindStringSubmatch(s); m != nil {
		if n, _ := strconv.Atoi(m[1]); n <= 18 {
			return &pin{said: s, as: "long", scale: n}, true
		}
	}
	return nil, false
}

// pin takes the operator's word for path, if it is one of those.
func (tp *Typer) pin(path string, as ...string) *pin {
	p := tp.pins[path]
	if p == nil || !slices.Contains(as, p.as) {
		return nil
	}
	p.used = true
	return p
}

// trial returns what takes back the notes made since, for types that policy
// will not see.
func (tp *Typer) trial() (forget func()) {
	numbers := len(tp.decimal)
	var free []*pin
	for _, p := range tp.pins {
		if !p.used {
			free = append(free, p)
		}
	}
	return func() {
		tp.decimal = tp.decimal[:numbers]
		for _, p := range free {
			p.used = false
		}
	}
}

// A Note is what the report says about a tool's schema.
type Note struct {
	Warning        bool // else it is no mistake
	Code, Msg, Fix string
}

// Notes lists what an operator should know about the types.
func (tp *Typer) Notes() (list []Note) {
	if n := len(tp.decimal); n > 0 {
		list = append(list, Note{false, "numbers-as-decimal", "numbers that reach policy as decimal, exact in four places: " + strings.Join(tp.decimal, ", "),
			fmt.Sprintf(`pin each that is a whole number or finer, such as "as": {%q: "long"}; "scaled(7)" or "text" suit coordinates`, tp.decimal[0])})
	}
	if len(tp.rules.left) > 0 {
		list = append(list, Note{true, "schema-unchecked", "its inputSchema demands what cannot be checked here: " + tp.rules.describe(),
			"it is left to the tool; rely on no policy that needs it"})
	}
	return list
}
