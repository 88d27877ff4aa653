package sandbox

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// Options are what can be left out of [Start]. Nil is the zero Options, which
// is safe.
type Options struct {
	// Engine decides connect and exec besides the policy's own lists; nil: the
	// policy's lists alone decide, and every program in the session may be run.
	Engine *governance.Engine
	// Name is the session's name as the resource of governance policies:
	// Sandbox::"<name>". Empty means "sandbox".
	Name string
	// Workspace is the host directory that is /sandbox inside; "" means a new
	// empty one, which Close removes. When the host is root, files in it keep
	// their owner on disk and belong to the session's user inside; that takes a
	// file system that can be idmapped. There must be no set-id program in it then,
	// as its contents can be changed.
	Workspace string
	// Self shows the executable of this very process inside, at [Self], so that
	// a program can run itself as its own agent.
	Self bool
	// Launcher is how the session is started; "" means [LauncherReexec].
	Launcher Launcher
	// Require names the layers without which Start fails; nil means all of them.
	// A layer that is left out of it is still used where it can be had. The
	// network and, unless Tier says otherwise, the namespaces and /proc are always
	// required.
	Require []Layer
	// Governed are hosts that the host program governs through its tool door:
	// names, patterns or addresses, with or without a port, or origins such as
	// https://api.github.com. A policy by which a program could dial one of them
	// itself is an error at Start and at every reload. Of an address, only names
	// that spell it out are known (10.0.0.7.nip.io).
	Governed []string
	// AllowUngoverned lets such a policy pass all the same.
	AllowUngoverned bool
	// Tier names what the session does without. The zero Tier is without nothing:
	// Start fails where a layer cannot be had.
	Tier Tier
	// Cgroup is a directory of a cgroup v2 hierarchy in which the session's group
	// is made when policy limits the session as a whole; "" means this process's
	// own, or the one above it. It must be delegated to this process.
	Cgroup string
	// Resolver finds the addresses of real hosts that policy allows; nil means
	// this machine's own. What it answers is checked before it is dialled.
	Resolver Resolver
	// Ask is asked about destinations that the policy does not allow; nil: they
	// are refused. AskTimeout is how long an answer may take; zero means 30
	// seconds. No answer is a refusal, and the question is not repeated for a minute.
	Ask        AskFunc
	AskTimeout time.Duration
	// Roots verify the real hosts whose requests are looked into (Protocol https);
	// nil means this machine's roots.
	Roots *x509.CertPool
	// MaxConnections bounds the connections of the session at one time; zero
	// means 256.
	MaxConnections int
	// RecordProbes puts on record also what the kernel refuses, as [audit.KindProbe]:
	// connections to ports that no rule names, and UDP. It takes a moment of Start,
	// and changes nothing about what is refused.
	RecordProbes bool
	// NetworkLimits bound rates and bytes.
	NetworkLimits NetworkLimits
	// KeepWorkspace is asked, once the session has ended, whether a workspace that
	// Start made is to stay where [Session.Workspace] says, for somebody to look
	// into. The cause is that of the end: [ErrEnded] after Close, else that of the
	// context. Nil keeps it when the agent was frozen, which is [audit.ErrFrozen].
	KeepWorkspace func(cause error) bool
	// Logger takes what is worth a line but not a record; nil discards it.
	Logger *slog.Logger

	without []Layer // for tests: layers to leave out
}

// A Session is a living sandbox. Its methods may be called concurrently.
type Session struct {
	ctx    context.Context
	policy *Policy // normal form, as at Start
	live   network // what of it can change
	actor  audit.Actor
	log    audit.Recorder
	opts   Options
	box    *confine.Box
	door   *egress.Door
	// authority is made in the meantime; the session trusts what it vouches for.
	authority func() (*egress.CA, error)
	probes    *probeLog

	home, side    string // of a session that shares the host's tree: see tier.go
	workspace     string
	workspaceInfo os.FileInfo // of the directory that the room shows
	ownWorkspace  bool        // to be removed at the end
	protected     []string    // places of the workspace that are read-only inside
	steps         []Step      // of Start
	tally         tally

	commands sync.WaitGroup // outcomes that are not on record yet
	mu       sync.Mutex
	ending   bool
	ran      int
	failed   error // of the log, while ending
	kept     bool  // the workspace is still there; valid when done

	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Start makes a session for an actor. When it returns, every layer is in force,
// the launch is on record, and nothing has run inside yet.
//
// The session is that actor until it ends: when ctx is cancelled, which is how
// revocation reaches it, when [Session.Close] is called, or when this process
// dies, however it dies. Then every process inside is killed by the kernel. An
// empty Session or Issuer of the actor is filled in.
//
// Start needs a log, as nothing may run that is not on record. A nil policy is
// the zero [Policy], the tightest one.
func Start(ctx context.Context, p *Policy, actor audit.Actor, log audit.Recorder, opts *Options) (*Session, error) {
	s, err := start(ctx, p, actor, log, opts)
	if err != nil {
		return nil, fmt.Errorf("sandbox: start: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, p *Policy, actor audit.Actor, log audit.Recorder, opts *Options) (*Session, error) {
	if log == nil {
		return nil, audit.ErrNoLog
	}
	if err := actor.Validate(); err != nil {
		return nil, err
	}
	if p == nil {
		p = &Policy{}
	}
	if err := errors.Join(p.Validate(), p.checkTier(opts)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	s := &Session{policy: p.normal(), actor: actor, done: make(chan struct{})}
	s.log = countedLog{log, &s.tally}
	s.live.set(s.policy)
	if opts != nil && !opts.AllowUngoverned {
		if err := p.checkGoverned(opts.Governed); err != nil {
			return nil, err
		}
	}
	if opts != nil {
		s.opts = *opts
	}
	s.live.ports = s.listening()
	if s.opts.Name == "" {
		s.opts.Name = "sandbox"
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.New(slog.DiscardHandler)
	}
	if s.actor.Session == "" {
		s.actor.Session = "s-" + randomID()
	}
	if s.actor.Issuer == "" {
		s.actor.Issuer = "session"
	}
	if err := s.launch(ctx); err != nil {
		s.abandon()
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	over := make(chan struct{})
	context.AfterFunc(s.ctx, func() {
		defer close(over)
		s.end()
	})
	go s.finish(over)
	return s, nil
}

func (s *Session) launch(ctx context.Context) (err error) {
	watch := stopwatch{last: time.Now()}
	c := egress.Config{
		Logger: s.opts.Logger, Resolver: s.opts.Resolver, Roots: s.opts.Roots, MaxConns: s.opts.MaxConnections, ProxyPort: proxyPort,
		Limits: egress.Limits(s.opts.NetworkLimits),
	}
	if err := s.ask(&c); err != nil {
		return err
	}
	s.authority = sync.OnceValues(func() (*egress.CA, error) { return egress.NewCA(time.Now()) })
	go s.authority() // while the disk and the kernel are waited for
	if err := s.openWorkspace(); err != nil {
		return err
	}
	if err := s.makeSide(); err != nil {
		return err
	}
	watch.lap("workspace")
	spec, err := s.spec()
	if err != nil {
		return err
	}
	s.probes = newProbeLog(s)
	spec.OnDenial = s.probes.tell
	if s.box, err = confine.Launch(ctx, spec); err != nil {
		return err
	}
	serving := false
	defer func() {
		if !serving {
			closeListeners(s.box.Listeners)
		}
	}()
	watch.lap("room")
	if c.CA, err = s.authority(); err != nil {
		return err
	}
	if s.door, err = newDoor(s.policy, s.actor, s.log, s.opts.Engine, c); err != nil {
		return err
	}
	watch.lap("network door")
	if err := s.log.Append(ctx, s.launchEvent()); err != nil {
		return fmt.Errorf("record the launch: %w", err)
	}
	watch.lap("record")
	s.steps = watch.steps
	if s.box.Listeners.TCP == nil {
		return nil // a test left the network out
	}
	if !s.sharesHost() {
		s.door.SetRoom(s.box.InitPID())
	}
	if s.opts.RecordProbes {
		packets, err := s.box.Packets()
		if err == nil {
			err = s.door.Watch(packets)
		}
		if err != nil {
			return fmt.Errorf("record probes: %w", err)
		}
	}
	serving = true
	return s.door.Serve(egress.Listeners(s.box.Listeners))
}

// abandon undoes what launch did before it failed.
func (s *Session) abandon() {
	if s.box != nil {
		s.box.Close()
	}
	if s.probes != nil {
		s.probes.close()
	}
	if s.door != nil {
		s.door.Close()
	}
	if s.ownWorkspace {
		_ = removeTree(s.workspace)
	}
	if s.side != "" {
		_ = removeTree(s.side)
	}
}

func (s *Session) openWorkspace() error {
	if s.opts.Workspace != "" {
		fi, err := os.Stat(s.opts.Workspace)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrWorkspace, err)
		}
		if !fi.IsDir() {
			return fmt.Errorf("%w: %s is not a directory", ErrWorkspace, s.opts.Workspace)
		}
		s.workspace, s.workspaceInfo = s.opts.Workspace, fi
		return nil
	}
	dir, err := os.MkdirTemp("", "sandbox-")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWorkspace, err)
	}
	s.workspace, s.ownWorkspace = dir, true
	if s.workspaceInfo, err = os.Stat(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrWorkspace, err)
	}
	return nil
}

func (s *Session) resource() string { return fmt.Sprintf("Sandbox::%q", s.opts.Name) }

// end begins the end of the session. What follows is up to finish.
func (s *Session) end() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.box.Close()
}

// finish waits until everything inside is dead, whoever killed it, and then
// takes the session apart. over is closed when end has returned, which the end of
// the session's context calls in any case.
func (s *Session) finish(over <-chan struct{}) {
	<-s.box.Done()
	cause := context.Cause(s.ctx)
	if cause == nil {
		cause = errDied
	}
	s.cancel(ErrEnded)
	<-over
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.commands.Wait()
	s.probes.close()
	err := s.door.Close()
	kept := s.ownWorkspace && s.keeps(cause)
	if s.ownWorkspace && !kept {
		err = errors.Join(err, removeTree(s.workspace))
	}
	s.kept = kept
	if s.side != "" {
		err = errors.Join(err, removeTree(s.side))
	}
	if logErr := s.log.Append(context.WithoutCancel(s.ctx), s.exitEvent(whyEnded(cause), kept)); logErr != nil {
		err = errors.Join(err, fmt.Errorf("record the exit: %w", logErr))
	}
	s.failed = err
	close(s.done)
}

// keeps reports whether the workspace is to stay. A function that fails keeps it.
func (s *Session) keeps(cause error) (keep bool) {
	if s.opts.KeepWorkspace == nil {
		return errors.Is(cause, audit.ErrFrozen)
	}
	defer func() {
		if p := recover(); p != nil {
			s.opts.Logger.Error("sandbox: KeepWorkspace panicked, so the workspace is kept", "panic", p)
			keep = true
		}
	}()
	return s.opts.KeepWorkspace(cause)
}

// Close ends the session and everything inside. It returns when no process,
// mount, listener or temporary workspace of it is left, except one that
// [Options.KeepWorkspace] keeps, and the end is on record. Further calls wait and return the same.
func (s *Session) Close() error {
	s.cancel(ErrEnded)
	<-s.done
	if s.failed != nil {
		return fmt.Errorf("sandbox: close: %w", s.failed)
	}
	return nil
}

// Done is closed when the session has ended and is taken apart.
func (s *Session) Done() <-chan struct{} { return s.done }

// Workspace returns the host directory that is /sandbox inside. What is in it
// was written by programs of the session: do not follow links in it.
func (s *Session) Workspace() string { return s.workspace }

// Actor returns who the session is.
func (s *Session) Actor() audit.Actor { return s.actor }

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
