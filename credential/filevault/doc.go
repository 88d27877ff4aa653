// Package filevault keeps secrets in one encrypted file: a
// [credential.WritableStore] for a host without a secrets server.
//
//	kek, err := filevault.LoadIdentity("/etc/twinward/vault.key")
//	store, err := filevault.Open(ctx, "/var/lib/twinward/vault", kek, &filevault.Options{Witness: filevault.LogWitness(log)})
//	vault, err := credential.NewBroker(store, log, nil)
//
// # The file
//
// It begins with a header in the clear: what kind of file it is, the id of the
// vault, the name of the key-encryption key (KEK), the root key wrapped by it,
// the generation, which counts the saves, and the SHA-256 of the generation
// before. The rest is encrypted and authenticated together with the header
// (AES-256-GCM), so that no part can be changed, left out, or taken from another
// file. In it each version of a secret is encrypted once more, with a random key
// of its own and bound to its name, version, state and the generation that it
// was saved in; while a vault is open, values are in memory in that form only.
//
// A save writes a file beside, syncs it, puts it in the place of the old one,
// and syncs the folder: after a crash the file is the old or the new one, whole.
// When a change has returned without an error it is on the disk. The generation
// before is kept under the name of the file with ".prev"; nothing reads it but
// an operator who needs it.
//
// Any number of processes can have the same vault open. Changes lock a file
// beside, ".lock", for as long as they take, start from what is on the disk, and
// are seen by the others when they next read.
//
// # What is refused
//
// A file that others than its owner can read or write, that belongs to somebody
// else, or that is a symbolic link; a folder that others can write to and that has no
// sticky bit, or that belongs to another user than this one and root; and a file that
// is damaged or was made with another KEK. None of these is ever overwritten. A file
// that somebody made who knows only the public key of the identity is one of another
// KEK; that holds for [LoadIdentity] and [CreateIdentity], and not for an [Age] KEK of
// your own recipients. On Windows, where the mode says nothing, set the folder's
// rights.
//
// # Old files put back
//
// An old file is as genuine as the newest. A vault that is open refuses a file
// older than what it has seen ([ErrRollback]). For what happens while no vault is
// open, a [Witness] remembers the generation and the SHA-256 of each save in
// another place, before the save takes effect; [LogWitness] does so in the audit
// log. Open then refuses a file that is older than the newest save which the
// witness knows of, or another one of the same generation.
//
// The witness also hears of saves that others made, as soon as this process
// reads them, and once a day of what it has. An operator who restores a backup
// says so, with Options.Restored.
//
// Not detected is an old file put back together with an old log (an anchor of
// the log detects that), nor one that is not older than what this witness was
// told of: what others saved after the last reading of this process.
//
// Another vault of the same KEK in the place of this one has a history of its
// own, which may be as good. Say which one is meant, by Options.ID ([ErrOther]),
// or give each a KEK of its own.
package filevault
