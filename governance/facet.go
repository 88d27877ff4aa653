package governance

// A Facet is a pure function of an argument. One that cannot be computed exactly
// refuses the call: a guess is what an attacker writes arguments for.
type Facet string

// The facets. Those of text take a string of at most 64 KiB, a path 4 KiB, a URL
// 8 KiB.
const (
	// CleanPath is a String: a path with "//", "." and ".." resolved as text. It
	// follows no links. A path that systems read differently is refused:
	// backslashes, percent escapes, "~", a scheme or drive letter, control or
	// invisible characters, look-alikes of "/" and ".", parts that end in a dot
	// or space, text that is not in Unicode's form C.
	CleanPath Facet = "path"
	// URLScheme, URLHost (String) and URLPort (Long) take a URL with an
	// authority. The host is in lower case without a final dot; an IP address is
	// in its usual form, whether it was written decimal, hexadecimal, shortened
	// or as IPv6-mapped. The port is that of the scheme if none is given.
	// Refused: user info, backslashes, white space, percent escapes in the
	// authority, octal that other readers take for decimal, and names that are
	// not ASCII once their compatibility forms are resolved; send those as xn--.
	URLScheme Facet = "url_scheme"
	URLHost   Facet = "url_host"
	URLPort   Facet = "url_port"
	// EmailDomains is a Set<String>: the domains of one address or several
	// separated by commas, each alone or as Name <address>. Encoded words ("=?")
	// are refused.
	EmailDomains Facet = "email_domains"
	// SQLVerb is a String: the first word of a single statement, in capitals,
	// after comments. Text with a semicolon anywhere but at its end is refused.
	// It knows dialects that need the semicolon between statements, so not
	// Transact-SQL. WITH is a verb of its own, and so is EXPLAIN.
	SQLVerb Facet = "sql_verb"
	// Count is a Long: the elements of a list, or the members of an object.
	Count Facet = "count"
	// SHA256 is a String of 64 hexadecimal digits: the hash of a string of any
	// length, or of anything else as canonical JSON.
	SHA256 Facet = "sha256"
	// Folded is a String: text in lower case, in Unicode's form KC, without
	// invisible characters. Look-alikes of other scripts stay what they are.
	Folded Facet = "folded"
)

// A Derived is one attribute of context.derived.
type Derived struct {
	// From is the JSON Pointer of the argument; * stands for every element of a
	// list ("/files/*/path"), and makes the attribute a set. "" is all arguments.
	From string `json:"from"`
	// Facet says what of it.
	Facet Facet `json:"facet"`
}
