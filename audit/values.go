package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync"
	"time"
)

// Values reads the arguments that a log kept, from the folder that they are in:
// [Options.ValuesDir]. It changes nothing. It is safe for concurrent use.
type Values struct {
	dir    fs.FS
	kek    KEK
	keys   map[string]keyLine
	places map[[saltSize]byte]valuePlace

	mu     sync.Mutex
	opened map[string][]byte // unwrapped keys
}

type valuePlace struct {
	file int32
	n    int32
	off  int64
}

// OpenValues reads where the values in a folder are, as of now. Its memory is
// about a hundred bytes a value. Without a KEK it tells only which are there.
func OpenValues(ctx context.Context, dir fs.FS, kek KEK) (*Values, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, fmt.Errorf("audit: the log's values: %w", err)
	}
	v := &Values{dir: dir, kek: kek, keys: map[string]keyLine{}, places: map[[saltSize]byte]valuePlace{}, opened: map[string][]byte{}}
	for _, e := range entries {
		n := valuesNumber(e.Name())
		if n == 0 && e.Name() != keysFile {
			continue
		}
		if !isRegular(dir, e) {
			return nil, fmt.Errorf("audit: the log's values: %s is not a regular file", e.Name())
		}
		err := eachLineOf(dir, e.Name(), func(off int64, size int, line []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if n == 0 {
				// A line that is no key is a key that is gone.
				if k, err := parseKeyLine(line); err == nil {
					v.keys[k.ID] = k
				}
				return nil
			}
			if val, err := parseValueLine(line); err == nil {
				salt := [saltSize]byte(val.Salt)
				if _, twice := v.places[salt]; !twice {
					v.places[salt] = valuePlace{int32(n), int32(size), off}
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("audit: the log's values: %w", err)
		}
	}
	return v, nil
}

func eachLineOf(dir fs.FS, name string, f func(off int64, n int, line []byte) error) error {
	r, err := openReader(dir, name)
	if err != nil {
		return err
	}
	defer r.Close()
	size, err := r.Size()
	if err != nil {
		return err
	}
	return eachLine(r, size, f)
}

// Reveal returns the arguments of a record, or the result of an outcome, after
// comparing them with what the record commits to. It fails with [ErrNotKept] if they
// never were kept, with [ErrGone] if they or their key are not there any more, with
// [ErrTampered] if they are not what was sealed for this record, and with [ErrKey] if
// the KEK is missing or not the one that they are under.
func (v *Values) Reveal(ctx context.Context, r Record) (Disclosure, error) {
	c := r.Commitment()
	if !c.kept() {
		return Disclosure{}, fmt.Errorf("%w (record %d)", ErrNotKept, r.Seq)
	}
	line, err := v.line(*c)
	if err != nil {
		return Disclosure{}, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	k, ok := v.keys[line.Key]
	switch {
	case !ok:
		return Disclosure{}, fmt.Errorf("%w (record %d)", ErrGone, r.Seq)
	case kekNamed(v.kek, k.KEK) == nil:
		return Disclosure{}, fmt.Errorf("%w: the value of record %d is under the key-encryption key %q, which was not given", ErrKey, r.Seq, k.KEK)
	}
	key, err := v.unwrap(ctx, k)
	if err != nil {
		return Disclosure{}, tamperedf("the data key of record %d cannot be unwrapped: %v", r.Seq, err)
	}
	opening, args, err := c.unseal(key, line.Sealed)
	if err != nil {
		return Disclosure{}, tamperedf("the value of record %d: %w", r.Seq, err)
	}
	return Disclosure{Seq: r.Seq, Value: args, Opening: opening}, nil
}

// unwrap asks the KEK once for each key.
func (v *Values) unwrap(ctx context.Context, k keyLine) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if key := v.opened[k.ID]; key != nil {
		return key, nil
	}
	key, err := kekNamed(v.kek, k.KEK).Unwrap(ctx, k.Wrapped, k.bound())
	if err == nil && len(key) != keySize {
		err = errors.New("not a key")
	}
	if err == nil {
		v.opened[k.ID] = key
	}
	return key, err
}

// line reads the value of a commitment.
func (v *Values) line(c Commitment) (valueLine, error) {
	at, ok := v.places[[saltSize]byte(c.Salt)]
	if !ok {
		return valueLine{}, ErrGone
	}
	r, err := openReader(v.dir, valuesName(int(at.file)))
	if errors.Is(err, fs.ErrNotExist) {
		return valueLine{}, ErrGone
	}
	if err != nil {
		return valueLine{}, fmt.Errorf("audit: %w", err)
	}
	defer r.Close()
	buf := make([]byte, at.n)
	if n, err := r.ReadAt(buf, at.off); n < len(buf) {
		return valueLine{}, fmt.Errorf("audit: %w", err)
	}
	line, err := parseValueLine(buf)
	if err != nil || [saltSize]byte(line.Salt) != [saltSize]byte(c.Salt) {
		return valueLine{}, ErrGone // overwritten since
	}
	return line, nil
}

// A ValueReport says what became of the values of a log.
type ValueReport struct {
	// Kept is how many records had their arguments or result kept; Readable of these
	// are there and are what the record commits to (without a KEK: are there).
	Kept     int `json:"kept"`
	Readable int `json:"readable"`
	// Erased and Pruned are gone, as the log's events of [KindErasure] say.
	Erased int `json:"erased"`
	Pruned int `json:"pruned"`
	// Missing are gone and no event says why, Damaged are not what was sealed for
	// the record, and Unopened are under another KEK, by the record's number.
	Missing  []uint64 `json:"missing,omitempty"`
	Damaged  []uint64 `json:"damaged,omitempty"`
	Unopened []uint64 `json:"unopened,omitempty"`
}

// Check compares the values with all records of their log, as from [Scan] with the
// zero [Filter]. A value that is missing is no fault of the log, whose proofs do
// not depend on it.
func (v *Values) Check(ctx context.Context, records iter.Seq2[Record, error]) (ValueReport, error) {
	var rep ValueReport
	var gone []Record // without explanation so far
	acts := acts{}
	for r, err := range records {
		if err != nil {
			return rep, err
		}
		if r.Event != nil && r.Event.Kind == KindErasure {
			gone = rep.explain(r.Event, gone)
		}
		if r = acts.of(r); !r.Commitment().kept() {
			continue
		}
		rep.Kept++
		err = v.check(ctx, r)
		switch {
		case err == nil:
			rep.Readable++
		case errors.Is(err, ErrGone):
			gone = append(gone, r)
		case errors.Is(err, ErrTampered):
			rep.Damaged = append(rep.Damaged, r.Seq)
		case errors.Is(err, ErrKey):
			rep.Unopened = append(rep.Unopened, r.Seq)
		default:
			return rep, err
		}
	}
	for _, r := range gone {
		rep.Missing = append(rep.Missing, r.Seq)
	}
	return rep, nil
}

func (v *Values) check(ctx context.Context, r Record) error {
	if v.kek != nil {
		_, err := v.Reveal(ctx, r)
		return err
	}
	line, err := v.line(*r.Commitment())
	if _, ok := v.keys[line.Key]; err == nil && !ok {
		err = ErrGone
	}
	return err
}

// explain counts what an event says was destroyed, and returns the rest.
func (rep *ValueReport) explain(ev *Event, gone []Record) []Record {
	covers := func(Record) bool { return false }
	count := &rep.Erased
	switch ev.Action {
	case ActionErase:
		if s, err := parseSubject(ev.Detail); err == nil && !s.IsZero() {
			covers = s.Covers
		}
	case ActionPrune:
		count = &rep.Pruned
		covers = func(r Record) bool {
			cut, err := time.Parse(timeFormat, ev.Detail[retentionClass(r)])
			return err == nil && r.Time.Before(cut)
		}
	}
	var rest []Record
	for _, r := range gone {
		if covers(r) {
			*count++
		} else {
			rest = append(rest, r)
		}
	}
	return rest
}
