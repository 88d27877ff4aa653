package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/examples/internal/outside"
	"github.com/twinward-dev/twinward/examples/internal/tell"
	"github.com/twinward-dev/twinward/mcpx"
)

// This file is -split: the gateway, which has the secrets of the tools, and the
// compute host, which has agents and the model's key, are two processes that
// trust each other with nothing but an agent's own credential. This process
// starts both, and searches the memory of each for the secrets of the other.

// The parts of a split host.
const (
	partGateway = "gateway"
	partCompute = "compute"
)

// A joining is what the compute host is told about the gateway: where it is, and
// with what the agent proves itself there. An operator would carry it over.
type joining struct{ Base, Secret string }

// A closing is what a part tells at its end: to this process, which is its
// auditor, also the secrets that are to be nowhere else.
type closing struct {
	Secrets []string
	Key     string // that verifies its log
	Layers  int
	Bad     []string // what reached the vendors, or came of the agent's attempts, and should not have
}

// joinGateway makes the tools of the session those of a gateway elsewhere. The
// token that the agent needs there is put on outside the sandbox.
func (h *host) joinGateway(ctx context.Context, at joining) error {
	scheme := oauth.ClientCredentials(oauth.Client{Issuer: at.Base, ID: agentName, Resource: at.Base + "/mcp"})
	if err := h.vault.Bind(ctx, "gateway", credential.Binding{Origin: at.Base, Scheme: scheme}, deployer); err != nil {
		return err
	}
	h.tools = mcpx.Remote(at.Base+"/mcp", func(ctx context.Context, a audit.Actor) (*credential.Lease, error) {
		return h.vault.Lease(ctx, credential.LeaseRequest{Actor: a, Credential: "gateway", Origin: at.Base, Purpose: "gateway"})
	})
	return nil
}

// partMain is the other half of this binary: one of the two hosts. It speaks
// JSON lines with the process that has started it.
func partMain(part, dir string) int {
	if err := runPart(context.Background(), part, dir, bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "standup: %s: %v\n", part, err)
		return 1
	}
	return 0
}

func runPart(ctx context.Context, part, dir string, in *bufio.Reader, out *json.Encoder) (err error) {
	opts := options{part: part, dir: dir}
	if part == partCompute {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		if err := json.Unmarshal(line, &opts.joined); err != nil {
			return err
		}
	}
	rules, err := fs.Sub(files, "bundle")
	if err != nil {
		return err
	}
	h, err := newHost(ctx, opts, rules)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(h.log)) }()
	end := closing{Key: h.log.VerifierKey()}
	if part == partCompute {
		t := &telling{host: h, show: tell.NewPrinter(io.Discard, true), at: 1, seen: map[string][]tell.Line{}, ends: map[uint64]audit.Outcome{}}
		walls, err := files.ReadFile("sandbox.yaml")
		if err != nil {
			return err
		}
		layers, err := t.playInside(ctx, walls)
		if err != nil {
			return err
		}
		end.Secrets, end.Layers = []string{h.modelKey}, len(layers)
		for name, n := range t.found {
			t.wrong("the agent saw the secret %q %d times", name, n)
		}
		for _, wrong := range t.wrongs {
			end.Bad = append(end.Bad, wrong.Error())
		}
	} else {
		h.serveRemote()
		at := joining{Base: h.base}
		if err := h.clientSecret.Use(func(b []byte) error { at.Secret = string(b); return nil }); err != nil {
			return err
		}
		if err := out.Encode(at); err != nil {
			return err
		}
		if _, err := in.ReadBytes('\n'); err != nil { // the agent has ended
			return err
		}
		for _, token := range h.vendors.tokens {
			end.Secrets = append(end.Secrets, token)
		}
		end.Bad = h.vendors.wrong()
	}
	if err := out.Encode(end); err != nil {
		return err
	}
	_, err = in.ReadBytes('\n') // the memory of this process has been searched
	return err
}

// runSplit starts the two hosts, has the story played, and returns an error
// unless everything came out as it must.
func runSplit(ctx context.Context, opts options, out io.Writer) (err error) {
	if opts.remote || opts.plant > 0 || opts.provider != "" || len(opts.upstreams) > 0 {
		return errors.New("-split goes with -json and -dir only")
	}
	show := tell.NewPrinter(out, opts.json)
	if opts.dir == "" {
		if opts.dir, err = os.MkdirTemp("", "twinward-standup-"); err != nil {
			return err
		}
	}
	gateway, err := startPart(ctx, partGateway, opts.dir)
	if err != nil {
		return err
	}
	defer gateway.kill()
	compute, err := startPart(ctx, partCompute, opts.dir)
	if err != nil {
		return err
	}
	defer compute.kill()
	show.Say("The gateway is process %d of user %d, the compute host process %d of user %d.", gateway.cmd.Process.Pid, gateway.uid, compute.cmd.Process.Pid, compute.uid)
	if gateway.uid == compute.uid {
		show.Say("Both have one user, since this is not run as root: the kernel does not keep them apart.")
	}
	var at joining
	var tools, agents closing
	if err := errors.Join(gateway.hear(&at), compute.tell(at), compute.hear(&agents), gateway.tell("ended"), gateway.hear(&tools)); err != nil {
		return err
	}
	wrongs := append(asErrors(tools.Bad), asErrors(agents.Bad)...)
	for _, c := range []struct {
		of      *part
		secrets []string
		own     bool
	}{{gateway, tools.Secrets, true}, {compute, agents.Secrets, true}, {compute, tools.Secrets, false}, {gateway, agents.Secrets, false}} {
		n, read, err := outside.SearchMemory(c.of.cmd.Process.Pid, c.secrets)
		if err != nil {
			return err
		}
		whose := "the other's"
		if c.own {
			whose = "its own"
		}
		show.Say("The %d MB that the %s host can read hold %d of %s %d secrets.", read>>20, c.of.name, n, whose, len(c.secrets))
		if want := map[bool]int{true: len(c.secrets)}[c.own]; n != want {
			wrongs = append(wrongs, fmt.Errorf("the memory of the %s host holds %d of %s secrets, and it should be %d", c.of.name, n, whose, want))
		}
	}
	if err := errors.Join(gateway.end(), compute.end()); err != nil {
		return err
	}
	lines := map[string][]tell.Line{}
	for _, p := range []*part{compute, gateway} {
		key := map[*part]string{gateway: tools.Key, compute: agents.Key}[p]
		logDir := os.DirFS(filepath.Join(p.dir, "log"))
		if _, err := audit.Verify(ctx, logDir, &audit.VerifyOptions{Key: key}); err != nil {
			wrongs = append(wrongs, err)
		}
		for rec, err := range audit.Scan(ctx, logDir, audit.Filter{}) {
			if err != nil {
				return err
			}
			if l, ok := tell.LineOf(p.name, rec); ok {
				lines[p.name] = append(lines[p.name], l)
				show.Decision(l, l.Action+" at the "+p.name+" host")
			}
		}
	}
	return errors.Join(append(wrongs, compareSplit(lines)...)...)
}

// compareSplit holds both logs against the story: tools at the gateway, the rest
// at the compute host.
func compareSplit(lines map[string][]tell.Line) (wrongs []error) {
	where := func(door string) string {
		if door == audit.DoorTool {
			return partGateway
		}
		return partCompute
	}
	wanted := map[string]bool{} // lines, by part and record
	id := func(part string, l tell.Line) string { return fmt.Sprint(part, l.Record) }
	for _, s := range story() {
		for _, w := range s.wants {
			part, found := where(w.door), false
			for _, l := range lines[part] {
				if w.matches(l) {
					found, wanted[id(part, l)] = true, true
				}
			}
			if !found {
				wrongs = append(wrongs, fmt.Errorf("step %s: wanted %s of %s because of %q at the %s", s.name, w.decision, w.action, w.cause, part))
			}
		}
	}
	for part, all := range lines {
		for _, l := range all {
			if !wanted[id(part, l)] && !expected(l) {
				wrongs = append(wrongs, fmt.Errorf("record %d of the %s was not in the story: %s %s %s", l.Record, part, l.Decision, l.Action, l.Resource))
			}
		}
	}
	return wrongs
}

func asErrors(texts []string) (errs []error) {
	for _, t := range texts {
		errs = append(errs, errors.New(t))
	}
	return errs
}

// A part is a running half of the host.
type part struct {
	name, dir string
	uid       int
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *json.Decoder
	said      bytes.Buffer // what went wrong
}

// startPart runs this binary as one of the hosts, as root with a user of its own.
func startPart(ctx context.Context, name, dir string) (*part, error) {
	p := &part{name: name, dir: filepath.Join(dir, name), uid: os.Getuid()}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(p.dir, 0o700)); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// A copy that its user can read: this one may lie where only we can look.
	own := filepath.Join(p.dir, "standup")
	text, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(own, text, 0o755); err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, own, "part", name, p.dir)
	p.cmd.Env = []string{"HOME=" + p.dir, "TMPDIR=" + p.dir, "PATH=" + os.Getenv("PATH")}
	p.cmd.Dir, p.cmd.Stderr = p.dir, &p.said
	if err := p.ownUser(); err != nil {
		return nil, err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(stdout)
	return p, p.cmd.Start()
}

func (p *part) hear(v any) error {
	err := p.out.Decode(v)
	if err != nil {
		p.kill()
		err = fmt.Errorf("the %s host: %w\n%s", p.name, err, strings.TrimSpace(p.said.String()))
	}
	return err
}

func (p *part) tell(v any) error { return json.NewEncoder(p.in).Encode(v) }

// end lets a part end by itself.
func (p *part) end() error {
	if err := p.tell("searched"); err != nil {
		return err
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("the %s host: %w\n%s", p.name, err, strings.TrimSpace(p.said.String()))
	}
	return nil
}

func (p *part) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}
