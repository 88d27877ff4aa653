package filevault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// A Store is an open vault. It is safe for concurrent use, and other processes
// may have the same file open. Nothing has to be closed.
type Store struct {
	path     string
	id       string // of the vault
	keys     *keys
	witness  Witness
	restored bool
	poll     time.Duration
	now      func() time.Time

	change chan struct{} // holds one token while this process changes the file

	mu       sync.Mutex
	last     *generation // what was read or written last
	attested string      // the hash that the witness was told of last,
	told     time.Time   // and when
}

var (
	_ credential.WritableStore = (*Store)(nil)
	_ credential.Watcher       = (*Store)(nil)
	_ credential.BindingStore  = (*Store)(nil)
)

// A generation is one content of the file. It does not change.
type generation struct {
	header header
	hash   string
	file   os.FileInfo
	body   body
}

// Options are what can be changed about a [Store].
type Options struct {
	// ID is the id of the vault that the file has to be: see [Store.ID]. Another
	// one is refused with [ErrOther], also if the same KEK opens it. Empty means
	// that any vault of the KEK will do.
	ID string
	// Witness remembers each save, so that an old file that is put back while
	// the vault is not open is detected. Nil means that it is not.
	Witness Witness
	// Restored takes the file for the newest although the witness knows of a
	// newer one, because a backup was restored. It is for one opening, by an
	// operator, who records who decided so and why.
	Restored bool
	// Poll is how often a watch looks at the file. Zero means every second.
	Poll time.Duration
	// Now is the clock for what is on record in the vault. Nil means [time.Now].
	Now func() time.Time
}

func newStore(path string, opts *Options) *Store {
	s := &Store{path: path, poll: time.Second, now: time.Now, change: make(chan struct{}, 1)}
	if opts != nil {
		s.id, s.witness, s.restored = opts.ID, opts.Witness, opts.Restored
		if opts.Poll > 0 {
			s.poll = opts.Poll
		}
		if opts.Now != nil {
			s.now = opts.Now
		}
	}
	return s
}

// ID returns the id of the vault, which was made with it and does not change. It
// is no secret: keep it where the host's configuration is, for [Options].ID.
func (s *Store) ID() string { return s.id }

// Create makes an empty vault and opens it. There must be no file yet, and no
// Options.ID: the new vault is another one.
func Create(ctx context.Context, path string, kek KEK, opts *Options) (*Store, error) {
	if kek == nil {
		return nil, fmt.Errorf("%w: there is none", ErrKEK)
	}
	s := newStore(path, opts)
	var id [16]byte
	rand.Read(id[:])
	if s.id != "" {
		return nil, fmt.Errorf("%w: a new one has an id of its own, not %.80q", ErrOther, s.id)
	}
	s.id = hex.EncodeToString(id[:])
	h := header{ID: s.id, KEK: kek.ID(), Generation: 1}
	root := make([]byte, rootSize)
	rand.Read(root)
	var err error
	if h.Root, err = kek.Wrap(ctx, root, boundRoot(h.ID)); err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	if s.keys, err = newKeys(root, h.ID); err != nil {
		return nil, err
	}
	file, err := s.keys.join(h, body{})
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	defer unlock()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("filevault: %w: %s", fs.ErrExist, path)
	}
	s.attested, s.told = hashOf(file), s.now()
	if err := s.remember(ctx, Seal{Vault: h.ID, Generation: 1, SHA256: s.attested}); err != nil {
		return nil, err
	}
	if err := createFile(path, file); err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	if _, err := s.current(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func boundRoot(id string) []byte { return []byte("twinward filevault v1 root key " + id) }

func hashOf(file []byte) string {
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:])
}

// Open opens a vault. With a witness it completes a save that was interrupted
// after the witness had been told, and refuses an older file.
func Open(ctx context.Context, path string, kek KEK, opts *Options) (*Store, error) {
	if kek == nil {
		return nil, fmt.Errorf("%w: there is none", ErrKEK)
	}
	s := newStore(path, opts)
	unlock, err := lock(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	defer unlock()
	file, err := readFile(path, fileSize)
	if err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	h, _, _, err := split(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, path)
	}
	if h.KEK != kek.ID() {
		return nil, fmt.Errorf("%w: %s is opened by %.80q, not by %.80q", ErrKEK, path, h.KEK, kek.ID())
	}
	if s.id != "" && s.id != h.ID { // the one of the options
		return nil, fmt.Errorf("%w: %s is %q, and not %.80q", ErrOther, path, h.ID, s.id)
	}
	s.id = h.ID
	root, err := kek.Unwrap(ctx, h.Root, boundRoot(h.ID))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKEK, path, err)
	}
	if s.keys, err = newKeys(root, h.ID); err != nil {
		return nil, err
	}
	if s.witness != nil {
		if err := s.attest(ctx, h, hashOf(file)); err != nil {
			return nil, err
		}
	}
	if _, err := s.current(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// attest compares what is on the disk with what the witness knows. The lock is
// held.
func (s *Store) attest(ctx context.Context, h header, hash string) error {
	seal, err := s.witness.Newest(ctx, h.ID)
	if err != nil {
		return fmt.Errorf("filevault: the witness does not answer: %w", err)
	}
	switch {
	case seal.SHA256 == hash:
		s.attested, s.told = hash, seal.At
		return nil
	case seal.Generation < h.Generation, s.restored:
		return nil // and the witness is told, when the file is read
	case seal.Generation == h.Generation+1:
		// Perhaps a save that was cut off between the two.
		next, err := readFile(s.path+newSuffix, fileSize)
		if err == nil && hashOf(next) == seal.SHA256 {
			if err := replace(s.path); err != nil {
				return fmt.Errorf("filevault: %w", err)
			}
			s.attested, s.told = seal.SHA256, seal.At
			return nil
		}
	}
	return fmt.Errorf("%w: %s is generation %d, and generation %d was saved", ErrRollback, s.path, h.Generation, seal.Generation)
}

func (s *Store) remember(ctx context.Context, seal Seal) error {
	if s.witness == nil {
		return nil
	}
	if err := s.witness.Remember(ctx, seal); err != nil {
		return fmt.Errorf("filevault: the witness did not take the save: %w", err)
	}
	return nil
}

// current returns what is on the disk, which it reads only if it changed. The
// witness hears of what somebody else has saved.
func (s *Store) current(ctx context.Context) (*generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil {
		st, err := os.Lstat(s.path)
		if err != nil {
			return nil, fmt.Errorf("filevault: %w", err)
		}
		if same(st, s.last.file) {
			return s.last, s.attestAgain(ctx, s.last)
		}
	}
	g, err := s.read()
	if err != nil {
		return nil, err
	}
	if l := s.last; l != nil && (g.header.ID != l.header.ID || g.header.Generation < l.header.Generation ||
		g.header.Generation == l.header.Generation && g.hash != l.hash) {
		return nil, fmt.Errorf("%w: %s is generation %d, and generation %d has been here", ErrRollback, s.path, g.header.Generation, l.header.Generation)
	}
	if err := s.attestAgain(ctx, g); err != nil {
		return nil, err
	}
	s.last = g
	return g, nil
}

// attestAgain tells the witness what is on the disk, unless it knows and has
// known for less than a day.
func (s *Store) attestAgain(ctx context.Context, g *generation) error {
	now := s.now()
	if s.witness == nil || g.hash == s.attested && now.Sub(s.told) < 24*time.Hour {
		return nil
	}
	if err := s.remember(ctx, Seal{Vault: g.header.ID, Generation: g.header.Generation, SHA256: g.hash}); err != nil {
		return err
	}
	s.attested, s.told = g.hash, now
	return nil
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

func (s *Store) read() (*generation, error) {
	f, err := openPrivate(s.path)
	if err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	file, err := readAll(f, fileSize)
	if err != nil {
		return nil, fmt.Errorf("filevault: %w", err)
	}
	g := &generation{hash: hashOf(file), file: st}
	h, head, sealed, err := split(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, s.path)
	}
	text, err := s.keys.body.Open(nil, nil, sealed, head)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: its seal is broken", ErrCorrupt, s.path)
	}
	defer clear(text)
	g.header = h
	if g.body, err = parseBody(text, h.Generation); err != nil {
		return nil, fmt.Errorf("%w: %s", err, s.path)
	}
	return g, nil
}

// save makes one change: it starts from what is on the disk, and when it returns
// nil the change is there.
func (s *Store) save(ctx context.Context, do func(b *body, generation uint64) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.change <- struct{}{}:
		defer func() { <-s.change }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	unlock, err := lock(ctx, s.path)
	if err != nil {
		return fmt.Errorf("filevault: %w", err)
	}
	defer unlock()
	g, err := s.current(ctx)
	if err != nil {
		return err
	}
	h := g.header
	h.Generation++
	h.Previous = g.hash
	b := g.body.clone()
	if err := do(&b, h.Generation); err != nil {
		return err
	}
	if err := b.check(h.Generation); err != nil {
		return err
	}
	file, err := s.keys.join(h, b)
	if err != nil {
		return err
	}
	// What is there is from a save that was cut off, and not attested.
	if err := os.Remove(s.path + newSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("filevault: %w", err)
	}
	if err := createFile(s.path+newSuffix, file); err != nil {
		return fmt.Errorf("filevault: %w", err)
	}
	if err := s.remember(ctx, Seal{Vault: h.ID, Generation: h.Generation, SHA256: hashOf(file)}); err != nil {
		_ = os.Remove(s.path + newSuffix)
		return err
	}
	s.mu.Lock()
	s.attested, s.told = hashOf(file), s.now()
	s.mu.Unlock()
	if err := replace(s.path); err != nil {
		return fmt.Errorf("filevault: %w", err)
	}
	// Read back: what is acknowledged is what is there.
	_, err = s.current(ctx)
	return err
}
