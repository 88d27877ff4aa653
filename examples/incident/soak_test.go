//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	identities "github.com/twinward-dev/twinward/credential/postgres"
	budgets "github.com/twinward-dev/twinward/inference/postgres"
)

// A soak is a long time of everything at once.
//
// The agents of a crew use all doors all the time. In each round everything breaks
// once that can, one after the other, while policies are reloaded and secrets
// rotated; then all is put to rest, and what the host uses is compared with what it
// used at rest before. Ages of the host end under load: the first after one round, and
// each later one after twice as many. After each, the accounts are settled, and the
// next age has to know what the one before knew.
type soak struct {
	t       *testing.T
	dice    *mathrand.Rand
	cfg     soakConfig
	world   *soakWorld
	office  *office
	machine *machine
	notes   *notes
	asking  sync.Mutex
	calm    sync.RWMutex // held for reading by acts that no call may notice

	key      string
	anchors  []string
	first    uint64 // record of this age
	versions map[string]int
	steady   []int // agents that work whatever happens
	fickle   int   // the one that is revoked and comes back
	crew     []int // who is at work
	lives    map[int]int
	killed   map[life]bool
	gone     []int // who was revoked for good
	hired    int
	knocks   int
	knocked  map[string]bool
	memory   *memory // what the next age has to know
	faults   []*fault

	counts, failed, answered, sayings                            map[string]int
	reloads, rotations, records, requests, denials, unauthorised int
	open, rounds, ages                                           int
}

// soakFor is how long a soak takes: half an hour with TWINWARD_SOAK, or as long as
// that says.
func soakFor() time.Duration {
	long := os.Getenv("TWINWARD_SOAK")
	if d, err := time.ParseDuration(long); err == nil {
		return d
	}
	if long != "" {
		return 30 * time.Minute
	}
	return 25 * time.Second
}

func TestSoak(t *testing.T) {
	server := pgtest.Start(t)
	opts := ready(t)
	seed, err := strconv.ParseUint(os.Getenv("TWINWARD_SEED"), 10, 64)
	if err != nil {
		seed = mathrand.Uint64()
	}
	t.Logf("TWINWARD_SEED=%d", seed)
	s := &soak{
		t: t, dice: mathrand.New(mathrand.NewPCG(seed, 0)), notes: newNotes(), steady: []int{1, 2}, fickle: 3,
		versions: map[string]int{}, lives: map[int]int{}, killed: map[life]bool{}, knocked: map[string]bool{},
		counts: map[string]int{}, failed: map[string]int{}, answered: map[string]int{}, sayings: map[string]int{},
	}
	s.cfg.DB, s.cfg.Dir, s.cfg.Mark = server.DSN(), filepath.Join(opts.dir, "host"), "soak-"+rand.Text()
	s.office = &office{bin: opts.bin, host: s.cfg.Dir, log: filepath.Join(opts.dir, "office", "log"), db: s.cfg.DB}
	t.Cleanup(func() {
		_ = kill(withArgument(s.cfg.Mark, ""))
		if s.world != nil {
			s.world.close()
		}
		s.report()
	})
	require.NoError(t, s.furnish(t.Context(), opts.dir))
	for began := time.Now(); time.Since(began) < soakFor(); s.ages++ {
		require.NoError(t, s.age(t.Context(), func() bool { return time.Since(began) < soakFor() }), "the host's last words: %s", s.machine.stderr.String())
	}
	key, err := s.office.key()
	require.NoError(t, err)
	_, err = audit.Verify(t.Context(), os.DirFS(s.office.log), &audit.VerifyOptions{Key: key})
	require.NoError(t, err, "the log of what people did")
}

// furnish makes the world, the vault, the database and the crew.
func (s *soak) furnish(ctx context.Context, dir string) (err error) {
	for _, place := range []string{s.cfg.Dir, filepath.Join(s.cfg.Dir, "work"), filepath.Join(s.cfg.Dir, "files")} {
		if err := os.Mkdir(place, 0o700); err != nil {
			return err
		}
	}
	if s.world, err = newSoakWorld(filepath.Join(dir, "forge")); err != nil {
		return err
	}
	s.cfg.Port, s.cfg.CA, s.cfg.Vendors = s.world.port(), s.world.ca(), map[string]string{}
	if err := s.office.vault(ctx, granter, "SEC-1: a vault", "", append([]string{"create"}, s.office.store()...)...); err != nil {
		return err
	}
	for _, vendor := range vendors {
		s.versions[vendor], s.cfg.Vendors[vendor] = 1, s.world.servers[vendor].URL
		if err := s.office.bind(ctx, s.world.world, vendor, s.cfg.Vendors[vendor]); err != nil {
			return err
		}
	}
	pool, err := pgxpool.New(ctx, s.cfg.DB)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := errors.Join(identities.Migrate(ctx, pool), budgets.Migrate(ctx, pool)); err != nil {
		return err
	}
	for range append(s.steady, s.fickle) {
		if _, err := s.hire(ctx); err != nil {
			return err
		}
	}
	return nil
}

// age is the life of one process of the host.
func (s *soak) age(ctx context.Context, more func() bool) error {
	var ready word
	var err error
	if s.machine, ready, err = boot(ctx, "soak-host", s.cfg, s.cfg.Dir); err != nil {
		return err
	}
	if s.key == "" {
		s.key = ready.Key
	}
	if ready.Key != s.key {
		return fmt.Errorf("the log has another key: %s", ready.Key)
	}
	// Whole records of the last age that its power cut left unsigned are kept, too:
	// nobody was told that they are there, and nothing followed from them.
	if s.first, err = strconv.ParseUint(ready.Said["records"], 10, 64); err != nil {
		return err
	}
	if err := errors.Join(s.remember(ctx), s.learn(ctx)); err != nil {
		return err
	}
	var first *figures
	for round := 0; round < 1<<s.ages && (round == 0 || more()); round++ {
		if err := s.round(ctx); err != nil {
			return err
		}
		now, err := s.rest(ctx)
		if err != nil {
			return err
		}
		s.t.Logf("age %d, round %d: %+v", s.ages+1, round+1, now)
		if first == nil {
			first = &now
		}
		if wrongs := now.above(*first); len(wrongs) > 0 {
			stacks, err := s.ask(ctx, "stacks")
			return errors.Join(errors.Join(wrongs...), errors.New(stacks["stacks"]), err)
		}
	}
	return s.endAge(ctx)
}

// muster has the whole crew at work.
func (s *soak) muster(ctx context.Context) error {
	all := append(slices.Clone(s.steady), s.fickle)
	for _, n := range all {
		if err := s.start(ctx, n); err != nil {
			return err
		}
	}
	return s.mark(false, all, of(false, everything...)).more(ctx, 1)
}

// round has everything break that can, in any order.
func (s *soak) round(ctx context.Context) (err error) {
	s.rounds++
	if err := s.muster(ctx); err != nil {
		return err
	}
	stop, calm := make(chan struct{}), make(chan error, 1)
	go func() { calm <- s.calmly(ctx, stop) }()
	faults := []func(context.Context) error{
		s.death("github"), s.death("slack"), s.death("model"), s.death("forge"), s.death("web"),
		s.cut, s.killChildren, s.shut, s.revoke, s.fresh, s.again, s.full,
	}
	s.dice.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, f := range faults {
		if err = f(ctx); err != nil {
			break
		}
	}
	close(stop)
	return errors.Join(err, <-calm)
}

// rest ends all sessions, and returns what the host uses then.
func (s *soak) rest(ctx context.Context) (f figures, err error) {
	for _, n := range s.running() {
		if err := s.stop(ctx, n); err != nil {
			return f, err
		}
	}
	checkpoint, err := s.ask(ctx, "checkpoint")
	if err != nil {
		return f, err
	}
	s.anchors = []string{checkpoint["text"]}
	// Servers of agents that were revoked last may have a second more to hear of it.
	most := int64(2 * (len(s.steady) + 1))
	err = patiently(ctx, func() string {
		return fmt.Sprintf("of %+v no more are left than %d processes, for the crew's own servers", f, most)
	}, func() (bool, error) {
		said, err := s.ask(ctx, "figures")
		if err != nil {
			return false, err
		}
		f.Heap, _ = strconv.ParseInt(said["heap"], 10, 64)
		f.Goroutines, _ = strconv.ParseInt(said["goroutines"], 10, 64)
		err = f.look(s.machine.cmd.Process.Pid, filepath.Join(s.cfg.Dir, "tmp"))
		return f.Processes <= most && f.Temporary == 0, err
	})
	return f, err
}

// endAge ends an age of the host, under load, and settles its accounts: by a power cut,
// by one after its disk broke so that nothing was recorded any more, or in good
// order, which leaves no call without its outcome.
func (s *soak) endAge(ctx context.Context) error {
	if err := s.muster(ctx); err != nil {
		return err
	}
	ways := []func(context.Context) error{s.powerCut, s.breakDisk, s.shutDown}
	if err := ways[s.ages%len(ways)](ctx); err != nil {
		return err
	}
	var left []int
	err := patiently(ctx, func() string { return fmt.Sprintf("processes %v have ended", left) }, func() (bool, error) {
		left = withArgument(s.cfg.Mark, "")
		return len(left) == 0, nil
	})
	if err != nil {
		return err
	}
	for _, n := range s.running() {
		s.killed[s.life(n)] = true
		if err := s.left(n); err != nil {
			return err
		}
	}
	err = s.world.await(ctx, "all requests have ended", func() bool {
		return len(s.world.entries(func(e entry) bool { return e.ended.IsZero() })) == 0
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(s.cfg.Dir, "tmp")); err != nil {
		return err
	}
	wrongs, err := s.settle(ctx)
	return errors.Join(append(wrongs, err)...)
}

func (s *soak) powerCut(context.Context) error {
	s.begin(fault{name: "power cuts", said: anything})
	return s.machine.cutPower()
}

func (s *soak) breakDisk(ctx context.Context) error {
	f := s.begin(fault{name: "broken disks", said: withheld})
	fails := s.mark(true, s.running(), of(false, everything...))
	if _, err := s.ask(ctx, "broken"); err != nil {
		return err
	}
	if err := fails.more(ctx, 2); err != nil {
		return err
	}
	before := s.total()
	if err := fails.more(ctx, 4); err != nil {
		return err
	}
	if n := s.total() - before; n != 0 {
		return fmt.Errorf("%d requests reached a vendor while the log had failed", n)
	}
	f.to = time.Now()
	return s.powerCut(ctx)
}

func (s *soak) shutDown(context.Context) error {
	s.begin(fault{name: "shutdowns", said: anything, codes: anything})
	if err := s.machine.shutDown(); err != nil {
		return err
	}
	left, err := os.ReadDir(filepath.Join(s.cfg.Dir, "tmp"))
	if len(left) > 0 {
		err = fmt.Errorf("it has left %d temporary files, such as %s", len(left), left[0].Name())
	}
	return err
}

// report prints what there was.
func (s *soak) report() {
	text, _ := json.MarshalIndent(map[string]any{
		"rounds": s.rounds, "ages of the host": s.ages, "faults": s.counts, "calls that failed for them": s.failed, "calls answered": s.answered,
		"reloads": s.reloads, "rotations": s.rotations, "agents": s.hired, "records": s.records, "denials on record": s.denials,
		"requests at vendors": s.requests, "of them with a token that was withdrawn": s.unauthorised, "calls without an outcome": s.open,
	}, "", "\t")
	s.t.Logf("%s", text)
	if os.Getenv("TWINWARD_SAYINGS") != "" {
		var all []string
		for _, said := range slices.Sorted(maps.Keys(s.sayings)) {
			all = append(all, fmt.Sprintf("%6d %s", s.sayings[said], said))
		}
		s.t.Log(strings.Join(all, "\n"))
	}
}
