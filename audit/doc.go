// Package audit writes down what agents did, so that it cannot be silently
// changed or lost, and reads it back.
//
// Think of a call as two lines in a ledger. The first, the [Intent], is durable
// before anything happens in the outside world; the second, the [Outcome], is
// durable before the agent sees an answer. A call that crashed in between
// leaves an intent without an outcome, and a reader reports it as open: nothing
// is ever lost, only unfinished. A denied call is one line, an [Event]. When a
// line cannot be written the action it describes must not happen; every
// [Recorder] in this module is used that way.
//
// The package also owns the nouns that all doors of Twinward share: [Actor]
// (who), [Decision] (why), [Intent], [Outcome] and [Event] (what), and
// [Change] (who changed the rules).
//
// # Who must be trusted
//
// A [Log] defends what it has written against later change. Three things are
// kept in three places:
//
//   - the log, in a folder. Whoever can write there can destroy it, but not
//     change a byte of a signed record unnoticed;
//   - the key, in a file outside it. Whoever has it too can write another
//     history that verifies;
//   - the [Anchor], a checkpoint kept where neither is. With it, that other
//     history is found, and so are a log that was cut off and an old state that
//     was put back. Without it they are not, and [Verify] says so.
//
// Nothing defends against a host that records a lie in the first place.
//
// # Format
//
// A log is a folder of files, its segments: [SegmentName](1), and so on. Only the
// last is written to; when it is full ([Options.SegmentSize]) a next one is begun.
// What is in them, one after the other, is append-only. Each line is JSON, ends
// with a newline, and is either a record or a checkpoint:
//
//	{"checkpoint":"audit.example/host7\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nbatch 1\nsegment 1\n\n— audit.example/host7 8X5ufLLabUgKZXnhTIq1PCRhL82Q+DfXQwxZijS4b1HqRGp9ESss2rKidEEnobO5ja2cZ07b+bO7hDm7tcCTcRezTAs=\n","key":"audit.example/host7+f17e6e7c+AdeKjDEQV8PasPplZ/JQTBHPtOUNqeQhpqMHgEbwSj5t","tree":[]}
//	{"seq":1,"time":"2026-11-25T09:00:00.001000000Z","intent":{"door":"tool","action":"github__list_prs","resource":"Tool::\"github__list_prs\"","actor":{"agent":"standup"},"decision":{"id":"d1","effect":"allow","policies":[{"id":"readers"}]}}}
//	{"checkpoint":"audit.example/host7\n1\nei6184FBIMZN8nSD4JeGrxWRLQxVKbkrbKkGWBVzLlw=\nbatch 2\n\n— audit.example/host7 8X5ufBThBOIQj9jzNcEjwuVB3vLIj9m3P5UtU5ufZWIrRq2+8Vq5MVdM19phlaZ5+kGhAxANrx2Ri/H4CJXKcmpnsAE=\n"}
//	{"seq":2,"time":"2026-11-25T09:00:00.003000000Z","call":1,"outcome":{"status":"ok","bytes":512,"latency_ns":1000000}}
//	{"checkpoint":"audit.example/host7\n2\nELvhTPxeYW8eavajm3kcJ3rMAcbW7Px2mkJ+ED7RcpU=\nbatch 3\n\n— audit.example/host7 8X5ufJyfHux7XTiaCS3tqp7FzBajm6nkKDpfpjtRp2srK15Tnse8YpmbNZwfBaoTJOx5JhCW+x5ShLpgRLai2mJYbgk=\n"}
//	{"seq":3,"time":"2026-11-25T09:00:00.004000000Z","event":{"kind":"denial","door":"tool","action":"slack__read_dms","resource":"Tool::\"slack__read_dms\"","actor":{"agent":"standup"},"decision":{"id":"d2","effect":"deny","policies":[{"id":"no-dms"}],"reason":"no-dms"}}}
//	{"checkpoint":"audit.example/host7\n3\nqb/6kFA2WEawa1VXUFjlMvZQaQQoYaJGdzZKTdO7GzM=\nbatch 4\n\n— audit.example/host7 8X5ufCjZdV5PGOvxT9mrgqZUnPhxQ7Na3NiUXo1RKRWBR3zfP0bYuwBJKTF8mPQ0WWPlXrYWe5kwL8OEg80hFzuajQc=\n"}
//	{"checkpoint":"audit.example/host7\n3\nqb/6kFA2WEawa1VXUFjlMvZQaQQoYaJGdzZKTdO7GzM=\nbatch 5\nclosed\n\n— audit.example/host7 8X5ufI3+thQ7iopw/LVgzhx7Xwvu+DBrgev+quKYucp5ucyz8KgVzVIxCq6QOAuGbFuxan+dfyvCOmhzl92Q6I93/AE=\n"}
//
// The example is the whole of a log with three records, closed.
//
// A record is a [Record]: its number, the time, and an intent, an outcome or an
// event. Numbers start at 1 and have no gaps. An outcome names the number of
// its intent in "call". Arguments are not in the log but a [Commitment] to them:
// see below.
// Strings hold no raw control characters, line separators or marks that reorder
// text: they are escaped, so a record is one line for every reader and cannot
// drive a terminal. A record has at most [MaxRecord] bytes. Readers ignore
// fields that they do not know, so that later versions can add some.
//
// A checkpoint is a C2SP checkpoint (https://c2sp.org/tlog-checkpoint), a signed
// note as a JSON string. Written out, the last of the example reads
//
//	audit.example/host7
//	3
//	qb/6kFA2WEawa1VXUFjlMvZQaQQoYaJGdzZKTdO7GzM=
//	batch 5
//	closed
//
//	— audit.example/host7 8X5ufI3+thQ7iopw/LVgzhx7Xwvu+DBrgev+quKYucp5ucyz8KgVzVIxCq6QOAuGbFuxan+dfyvCOmhzl92Q6I93/AE=
//
// Its lines are
//
//   - the log's origin, which is also the name of its Ed25519 key;
//   - the size: how many records are before it;
//   - the root of the RFC 6962 Merkle tree over them. The leaf of a record is the
//     hash of its line without the newline, as
//     [golang.org/x/mod/sumdb/tlog.RecordHash] computes it;
//   - as extension lines, the number of the checkpoint, counted from 1, and
//     "segment" with a number if a segment starts there, or "closed" if the writer
//     closed the log there;
//   - the signature.
//
// In the log, a checkpoint carries the log's own signature and no other; in an
// anchor there may be more, such as those of witnesses. There is one spelling of
// each checkpoint, so that no byte of it can change unnoticed.
//
// Each segment starts with a checkpoint that says "segment" and its number, in a
// line that also holds what a reader needs to go on from there: the verifier key
// of this checkpoint and those that follow, and the right edge of the tree before
// the segment, which are the roots of its perfect subtrees, largest first. They
// hash to the root. So a segment and those after it can be verified without those
// before.
//
// The file that is written to is longer than what is in it: zeros stand where the
// next lines will be, so that making these durable needs no change of the file
// system's own data. Zeros at the end of the last segment mean nothing, as long as
// they are no more than a writer allocates. A segment that is complete has none,
// neither has a log that was closed, unless a crash came while it was opened again.
//
// Beside the segments, files named "tree." and a number keep hashes of the tree,
// so that a proof ([Prove], [VerifyProof]) is quick. They can be deleted: [Open]
// makes them anew, and nobody believes them without comparing with a signed root.
// [Tiles] shows a log in the layout of https://c2sp.org/tlog-tiles.
//
// Records are written in batches; each ends with its checkpoint, in the same
// write, made durable by the same fdatasync, before any of its records is
// acknowledged. So what follows the last checkpoint was never acknowledged. A
// batch is in one segment; the segment before was cut to its length and synced
// before the next was made. Opening a log adds a checkpoint, closing it adds one
// marked closed. Nothing but the checkpoint of an opening may follow that one.
//
// # Keys
//
// [Log.Rotate] gives a log a new key. An event of [KindKey] names it; the
// checkpoint that covers the event is still signed with the key before, and those
// after it with the new one. So the log itself says, under a key that the reader
// trusts, which one comes next: [Verify] needs any one of them. A key that the log
// was rotated away from comes back by [Log.Rotate] only: where the last segment
// names an older key than the newest, [Open] reads the whole log before it goes on.
//
// # Arguments
//
// What an agent sent is what an auditor asks for first, and what a person may have
// the right to see erased. So a record only commits to arguments, and is never
// changed; the arguments themselves ([LevelFull]: by default of what was denied,
// writes or destroys) are encrypted in a folder of their own ([Options.ValuesDir]),
// which no proof depends on:
//
//   - "values.v1." files hold them, a line each, under a key that is derived from
//     a data key and the commitment's salt, and bound to the commitment;
//   - "keys.v1.jsonl" holds the data keys, one for each pair of agent and user and
//     for at most 30 days, wrapped by the [KEK], which is kept elsewhere.
//
// What went back to the agent can be kept in the same way, with the outcome
// ([Options.Result]); by default nothing is, not even a commitment. Doors ask
// [WantsResult].
//
// [Log.RotateKEK] wraps all data keys with another KEK, so that the one of before
// can be destroyed.
//
// Values are durable before the record that commits to them, so a crash leaves at
// most a value without a record. Where they are read ([OpenValues]), what was
// changed or swapped is found, and what is missing is reported and explained by
// the erasures on record ([Values.Check]).
//
// [Log.Erase] destroys data keys, then values. Two things follow. Backups of
// keys.v1.jsonl must be kept no longer than one may take to erase, for with the
// KEK they read every old copy of the values; the KEK itself and the values can be
// backed up at will. And overwriting a file says nothing about the blocks of the
// disk below it: where an attacker has those too, keep the folder on an encrypted
// disk. [Log.Prune] does the same with what is old, and [Log.Hold] forbids both.
// Names in records are not erased.
//
// [Values.Reveal] shows the arguments of a record, and [Disclosure.Only] one field
// of them, in a form that convinces whoever has the record ([VerifyDisclosure])
// and, with its proof, whoever has only the log's verifier key.
//
// # Old records
//
// [Log.PruneRecords] removes the oldest segments once all in them is old. In their
// place is a file "pruned.v1." and the number of the first segment that is left. It
// starts with the first line of segment 1 and goes on with lines of hashes of
// records, up to 256 of 32 bytes each, in base64, and between them, whole, the
// records of administrative acts and the checkpoints that vouch for new keys:
//
//	{"leaves":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}
//
// So nothing that was ever signed, proven or anchored stops to verify. An event of
// [KindPrune] says who and why, and holds the SHA-256 of that file and the root over
// what is before the first segment that is left. [Verify] reports it, and takes
// segments that are missing without such a record for deleted. One that nobody had
// signed when the log was opened (see Crashes) does not count: whoever writes to the
// file can have put it there. Neither does the release of a hold.
//
// How old a record is, the clock says, which may be wrong. So of a time in which
// nothing was recorded a week counts, at most ([Retention.Quiet]): a clock that is
// set a year forward does not make all records old. Who sets it forward week by
// week, writing a record each, has the host anyway.
//
// # Anchors
//
// A log tells its anchors checkpoints on a schedule ([Options.AnchorEvery],
// [Options.AnchorRecords]) and when it is closed. No record waits for an anchor,
// unless [Options.AwaitAnchors] says so; what an anchor does not cover yet, or
// refuses, is in [Log.AnchorStates]. What counts as one:
//
//   - a witness ([Witness]), which signs only what continues all it has signed;
//   - a file or folder of another uid or host, which fetches the checkpoints
//     itself ("twinward-audit anchor");
//   - anything else that the log's writer can add to and not take away from, such
//     as a git repository that refuses forced pushes (package gitanchor).
//
// A file that the log's writer can replace ([FileAnchor] on the host's own disk)
// finds accidents, and the attacker who forgets it. [CheckAnchorFile] tells it
// from an anchor.
//
// # How far a record is waited for
//
// By default all is: see [Mode] for what is softer. Records wait in a line of
// bounded length; who does not get in before their context ends is refused
// ([ErrBusy]), and nothing in it is dropped. While little space is left on the
// disk, intents are refused ([ErrFull]) so that the outcomes of running calls
// still fit. A flood of like denials is counted: see [Log.Append].
//
// # Passing records on
//
// [Options.Sinks] are served what is durable, each at its own pace: see [Sink]. The
// log is their queue, so a sink that is down costs nothing but its lag, which
// [Log.Sinks] tells. What has arrived elsewhere is a copy and proves nothing.
//
// # Crashes
//
// A write that did not get to its end leaves a line without its end, or blocks
// of zeros, in the last segment, or that segment empty. On the next [Open] such
// bytes are removed, whole records before them are kept, and an event of
// [KindGap] records both, in the segment in which these records are, even if that
// becomes larger than [Options.SegmentSize]. Any other damage is not from a crash,
// and neither [Open] nor [Verify] accepts it.
//
// After a failed write or sync the log refuses everything ([ErrFailed]): what a
// disk holds after a failed sync is unknown. Opening it anew finds out.
package audit
