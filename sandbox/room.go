package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

// Where the trust store of a session lies.
const (
	trustFile = "/etc/ssl/certs/ca-certificates.crt"
	caFile    = "/etc/ssl/certs/sandbox-ca.crt"
)

// hostTrust are the places where systems keep their roots.
var hostTrust = []string{trustFile, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem"}

// spec turns the policy into what the room is built from.
func (s *Session) spec() (*confine.Spec, error) {
	p := s.policy
	spec := &confine.Spec{
		Launcher:     s.opts.Launcher,
		Hostname:     "sandbox",
		Workspace:    s.workspace,
		OwnWorkspace: s.ownWorkspace,
		Files:        s.files(),
		MoreFiles:    s.trust,
		TmpSize:      uint64(p.Filesystem.TmpSize),
		Ports:        s.listening(),
		Limits: confine.Limits{
			Processes: uint64(p.Process.MaxProcesses), OpenFiles: uint64(p.Process.MaxOpenFiles),
			FileSize: uint64(p.Process.MaxFileSize), Data: uint64(p.Process.MaxMemory),
		},
		Env:     s.environment(),
		Self:    s.opts.Self,
		Without: s.opts.without,
	}
	abs, err := filepath.Abs(s.workspace)
	if err != nil {
		return nil, err
	}
	spec.Workspace = abs
	if s.sharesHost() {
		if s.home, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrWorkspace, err)
		}
		spec.Side, spec.ProxyPort, spec.Ports, spec.Files, spec.MoreFiles = s.side, proxyPort, nil, nil, nil
		spec.Env = s.environment()
	}
	if s.opts.Require != nil {
		for _, l := range confine.Layers() {
			if !slices.Contains(s.opts.Require, l) && l != LayerNetwork { // a session without it has no door
				spec.Optional = append(spec.Optional, l)
			}
		}
	}
	readOnly := p.Filesystem.ReadOnly
	if readOnly == nil {
		readOnly = SystemPaths()
	}
	for _, path := range readOnly {
		// Systems differ in which of these they have; any other path must exist.
		optional := slices.Contains(SystemPaths(), path)
		spec.Binds = append(spec.Binds, confine.Bind{Source: path, Optional: optional})
	}
	for _, path := range p.Filesystem.ReadWrite {
		spec.Binds = append(spec.Binds, confine.Bind{Source: path, Writable: true})
	}
	s.strengthen(spec)
	for _, path := range p.Filesystem.Protect {
		if strings.HasPrefix(path, "/") && !within(path, confine.Home) {
			spec.Binds = append(spec.Binds, confine.Bind{Source: path, Optional: true})
		}
	}
	if spec.Protect, err = s.findProtected(); err != nil {
		return nil, err
	}
	s.protected = spec.Protect
	return spec, nil
}

// environment returns what every command has: nothing of it comes from the
// host's own.
func (s *Session) environment() []string {
	home, tmp := s.places()
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + home, "USER=" + confine.User, "LOGNAME=" + confine.User, "SHELL=/bin/sh", "TMPDIR=" + tmp, "LANG=C.UTF-8",
		"NODE_EXTRA_CA_CERTS=" + s.caFile(),
	}
	for _, k := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CODEX_CA_CERTIFICATE", "DENO_CERT"} {
		env = append(env, k+"="+s.trustFile())
	}
	// Programs need no proxy: every address leads to the door. These are for
	// programs that speak nothing else, and name loopback as what stays inside.
	proxy := fmt.Sprintf("http://127.0.0.1:%d", proxyPort)
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		v := proxy
		if k == "NO_PROXY" {
			v = "localhost,127.0.0.1,::1,sandbox"
		}
		env = append(env, k+"="+v, strings.ToLower(k)+"="+v)
	}
	if s.sharesHost() {
		env = append(env, "GIT_CONFIG_NOSYSTEM=1") // the host's is not for the session to read, and git fails over that
	}
	for k, v := range s.policy.Environment {
		env = append(env, k+"="+v)
	}
	return env
}

// files returns the synthetic part of /etc.
func (s *Session) files() []confine.File {
	text := func(path, format string, args ...any) confine.File {
		return confine.File{Path: path, Data: fmt.Appendf(nil, format, args...)}
	}
	return []confine.File{
		text("/etc/passwd", "%s:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n", confine.User, confine.UID, confine.GID, confine.Home),
		text("/etc/group", "%s:x:%d:\nnogroup:x:65534:\n", confine.User, confine.GID),
		text("/etc/hostname", "sandbox\n"),
		text("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
		text("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
		text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
	}
}

// trust returns the session's trust store, with an authority of its own.
func (s *Session) trust() ([]confine.File, error) {
	authority, err := s.authority()
	if err != nil {
		return nil, err
	}
	ca := authority.PEM()
	return []confine.File{
		{Path: trustFile, Source: trustedRoots(), Data: append([]byte("\n"), ca...)}, // the roots may not end in a newline
		{Path: caFile, Data: ca},
	}, nil
}

// trustedRoots returns the file with the host's roots, or "" when it has none:
// then only what is served in-process can be verified.
func trustedRoots() string {
	const limit = 4 << 20
	for _, path := range hostTrust {
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Size() < limit {
			return path
		}
	}
	return ""
}

func closeListeners(l confine.Listeners) {
	for _, ln := range l.TCP {
		ln.Close()
	}
	if l.DNSTCP != nil {
		l.DNSTCP.Close()
	}
	if l.DNSUDP != nil {
		l.DNSUDP.Close()
	}
}
