package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"
)

// A Class says what an act can do to the world. It comes from the people who
// reviewed the tool, never from the agent.
type Class string

// The classes. The zero value is an act that nobody classified.
const (
	ClassRead        Class = "read"
	ClassWrite       Class = "write"
	ClassDestructive Class = "destructive"
)

// A Level says how much of an act's arguments or result a log keeps.
type Level uint8

const (
	// LevelDefault is what [DefaultLevel] says of arguments, and LevelMetadata of
	// results.
	LevelDefault Level = iota
	// LevelMetadata keeps nothing of them.
	LevelMetadata
	// LevelCommitted keeps a [Commitment]: whoever has the arguments from elsewhere
	// can prove, with the log's key, that they are these.
	LevelCommitted
	// LevelFull also keeps the arguments, encrypted, outside the log's folder: see
	// [Options.ValuesDir] and [Log.Erase].
	LevelFull
)

// DefaultLevel is how much is kept where the host does not say: all of what was
// denied and of what writes or destroys, and a commitment to everything else.
func DefaultLevel(r Record) Level {
	switch {
	case r.Event != nil && r.Event.Kind == KindDenial:
		return LevelFull
	case r.Intent != nil && (r.Intent.Class == ClassWrite || r.Intent.Class == ClassDestructive):
		return LevelFull
	}
	return LevelCommitted
}

const (
	// MaxValue is the largest size in bytes of arguments that are kept. Larger
	// ones are only committed to.
	MaxValue = 1 << 20
	// MaxDeniedValue is that of a denied act: who is denied chooses what is sent.
	MaxDeniedValue = 64 << 10
)

// levelOf asks the host how much to keep of arguments, of which the door may say
// how much at most.
func (l *Log) levelOf(r Record, most Level) (Level, error) {
	level, err := askLevel(l.level, r)
	switch {
	case most > LevelFull:
		return 0, fmt.Errorf("%w: Keep is %d, which is no level", ErrInvalid, most)
	case level == LevelDefault && most != LevelDefault:
		level = most
	case level == LevelDefault:
		level = DefaultLevel(r)
	case most != LevelDefault:
		level = min(level, most)
	}
	return level, err
}

// resultLevel asks the host how much to keep of a result.
func (l *Log) resultLevel(r Record) (Level, error) {
	level, err := askLevel(l.results, r)
	return max(level, LevelMetadata), err
}

func askLevel(ask func(Record) Level, r Record) (level Level, err error) {
	if ask == nil {
		return LevelDefault, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: Options.Level or Result panicked: %v", ErrInvalid, p)
		}
	}()
	if level = ask(r); level > LevelFull {
		return 0, fmt.Errorf("%w: Options.Level or Result answered %d, which is no level", ErrInvalid, level)
	}
	return level, nil
}

// keep puts a record in line, with as much of its arguments as its level says.
func (l *Log) keep(ctx context.Context, r body, e entry) (b *batch, seq uint64, at time.Time, err error) {
	args, actor, limit, most := json.RawMessage(nil), Actor{}, MaxValue, LevelDefault
	if r.Intent != nil {
		args, actor, most = r.Intent.Args, r.Intent.Actor, r.Intent.Keep
	} else {
		args, actor, limit, most = r.Event.Args, r.Event.Actor, MaxDeniedValue, r.Event.Keep
	}
	level := LevelMetadata
	if args != nil {
		if level, err = l.levelOf(Record{Intent: r.Intent, Event: r.Event}, most); err != nil {
			return nil, 0, at, err
		}
	}
	switch {
	case level == LevelMetadata:
	case level == LevelFull && l.values != nil && len(args) <= limit:
		var release func()
		r.Args, e.sealed, release, err = l.values.keep(ctx, actor, args)
		defer release()
	default:
		r.Args = l.key.Load().commitTo(args)
	}
	if err == nil {
		e.enc, err = r.encode()
	}
	if err != nil {
		return nil, 0, at, err
	}
	return l.add(ctx, e)
}

// placeValues completes the options about values, for a log in the folder dir, or
// elsewhere if that is empty.
func (o *Options) placeValues(dir string) error {
	if o.NoValues {
		return nil
	}
	type place struct{ what, path, dir, in string }
	var places []place
	if dir != "" {
		o.ValuesDir, o.KEKFile = cmp.Or(o.ValuesDir, dir+".values"), cmp.Or(o.KEKFile, dir+".kek")
		places = append(places, place{"the folder of the values", o.ValuesDir, dir, "the log's folder"})
		if o.KEK == nil {
			places = append(places, place{"the key-encryption key", o.KEKFile, dir, "the log's folder"})
		}
	}
	switch {
	case o.KEK != nil:
	case o.KEKFile == "":
		return fmt.Errorf("%w: values need Options.KEK or KEKFile", ErrKey)
	case o.Values == nil:
		places = append(places, place{"the key-encryption key", o.KEKFile, o.ValuesDir, "the folder of the values"})
	}
	for _, p := range places {
		if in, err := inside(p.dir, p.path); err != nil {
			return fmt.Errorf("%w: %w", ErrKey, err)
		} else if in {
			return fmt.Errorf("%w: %s (%s) lies inside %s, so whoever copies that has it: keep it elsewhere", ErrKey, p.what, p.path, p.in)
		}
	}
	return nil
}

// openValues opens the store that the options name, or none.
func (o Options) openValues(l *Log) (*valueStore, error) {
	if o.NoValues {
		return nil, nil
	}
	st := o.Values
	if st == nil {
		dir, err := filepath.Abs(o.ValuesDir)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		if st, err = openFolder(dir); err != nil {
			return nil, err
		}
	}
	o.Clock, o.SegmentSize = l.clock, l.segSize
	return openValueStore(st, o)
}
