package sandbox

// Network holds the allow-list of destinations. Everything else is refused and
// recorded: other names, other ports, bare addresses, UDP.
type Network struct {
	Allow []Rule `json:"allow,omitempty"`
}

// A Rule allows TCP connections to the hosts that a pattern matches. On port
// 443, and wherever a program begins with TLS, the name that TLS asks for must be
// the host's, and must not be hidden (ECH). What is said inside TLS is not seen:
// a host that answers for many names, such as a content network, can lead to the
// others. To judge requests, write a Protocol; to answer them, serve the name
// with [Session.Handle].
//
// Of all rules that match a name and port, those of the most specific pattern
// decide, and nothing is added to them: a rule for api.example.com is the whole
// truth about it, whatever a rule for **.example.com says. Of several rules of
// one pattern, the one that names the program decides, or else the one for any.
// Rules between which this does not decide must say the same, or the policy is
// refused.
type Rule struct {
	// Host is a name in lower-case ASCII, or a pattern:
	//
	//	api.example.com     that name
	//	*.example.com       one label in place of the star
	//	*-eu.example.com    the same, for a part of the first label
	//	**.example.com      one label or more
	//	a.*.example.com     one whole label in the middle
	//
	// Two labels at least must follow the last star, and together they must be
	// a name that somebody owns: "*", "*.com" and "*.co.uk" are errors.
	Host string `json:"host"`
	// Ports are TCP ports. Empty means 443, or 80 when Protocol is "http". Port 53 is the session's own DNS.
	Ports []uint16 `json:"ports"`
	// Private allows the name to resolve to a loopback, private or otherwise
	// shared address of the host's network, or to the host itself. Link-local
	// addresses and the metadata services of clouds stay refused. Names that a
	// handler serves ([Session.Handle]) do not need it, as nothing is resolved
	// for them.
	Private bool `json:"private,omitempty"`
	// Served says that a handler of the host serves the names ([Session.Handle])
	// and that they are never dialled, not even before the handler is there.
	// Names under .local are always meant so. A public name that the host
	// governs, such as api.github.com behind a handler that adds the credential,
	// wants this word.
	Served bool `json:"served,omitempty"`
	// Protocol is empty or [ProtocolTCP] when requests are not looked at, and
	// [ProtocolHTTPS] or [ProtocolHTTP] when each is judged by Access or Rules.
	Protocol Protocol `json:"protocol,omitempty"`
	// Access is short for rules about any path. It and Rules exclude each other,
	// and one of them is required for http and https.
	Access Access `json:"access,omitempty"`
	// Rules are the requests that are allowed.
	Rules []HTTPRule `json:"rules,omitempty"`
	// Deny are requests that are refused, whatever Access and Rules say.
	Deny []HTTPRule `json:"deny,omitempty"`
	// Programs are those that may connect; nil means any. The program is the very
	// process that holds the socket: neither its parent nor the one that started
	// it counts. This keeps programs to their destinations; it does not stop one
	// that can make a listed program do its work, by its options, its settings or
	// LD_PRELOAD, which process.exec: strict or process.programs make harder.
	Programs []Program `json:"programs,omitempty"`
}

// A Protocol says what is spoken on the ports of a rule.
type Protocol string

const (
	// ProtocolTCP is anything; only names are checked. It is the default.
	ProtocolTCP Protocol = "tcp"
	// ProtocolHTTPS is HTTP/1.1, HTTP/2 or WebSocket over TLS. TLS ends at the
	// session's door, whose certificate programs inside trust, and begins anew
	// there, verified with the roots of this machine.
	ProtocolHTTPS Protocol = "https"
	// ProtocolHTTP is HTTP without TLS.
	ProtocolHTTP Protocol = "http"
)

// Access names a set of methods.
type Access string

const (
	AccessReadOnly  Access = "read-only"  // GET, HEAD, OPTIONS
	AccessReadWrite Access = "read-write" // those, POST, PUT and PATCH; not DELETE
	AccessFull      Access = "full"       // every method
)

// An HTTPRule matches requests by method and path. One that says neither is an
// error, as it would match all.
type HTTPRule struct {
	// Methods are upper-case; nil means any, as does "*" alone.
	Methods []string `json:"methods,omitempty"`
	// Path is a glob for the whole path, in the canonical form that is also what
	// is sent on: without query, dot segments, doubled slashes and needless escapes.
	// "*" stands for any bytes but "/", none included, and "**" for any bytes; all
	// else, "?" and "[" too, stands for itself. Empty means any.
	//
	// A path that servers may read in several ways, such as one with %2F or
	// ;parameters, is allowed only if each reading is. Under deny, globs are taken
	// widely: the case of ASCII letters and a slash at the end do not matter, and
	// /x/** covers /x too.
	Path string `json:"path,omitempty"`
}

// Inference is short for a served rule, on ports 443 and 80, for the name under
// which models are reached.
type Inference struct {
	// Host is the name; empty means [InferenceHost].
	Host string `json:"host"`
	// Programs are those that may reach it; nil means any.
	Programs []Program `json:"programs,omitempty"`
}

// InferenceHost is where programs inside reach models, unless the policy names
// another host.
const InferenceHost = "inference.local"
