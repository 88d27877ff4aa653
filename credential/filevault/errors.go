package filevault

import "errors"

var (
	// ErrCorrupt is returned for a file that is damaged, or no vault. Nothing
	// writes over it. The generation before is beside it, with ".prev".
	ErrCorrupt = errors.New("filevault: the file is not a vault, or is damaged; it is left as it is, and the generation before is beside it (.prev)")
	// ErrKEK is returned when the key-encryption key does not open the file.
	ErrKEK = errors.New("filevault: the key-encryption key does not fit")
	// ErrUnsafe is returned for files that others could have read or changed.
	ErrUnsafe = errors.New("filevault: the file is not safe from others")
	// ErrRollback is returned for a file that is older than what was saved.
	ErrRollback = errors.New("filevault: an old file has been put back: find out who did it and what was lost, then bring back the newest")
	// ErrOther is returned for a vault that is not the one of Options.ID.
	ErrOther = errors.New("filevault: another vault is in the place of the one that is wanted: find out who put it there")
	// ErrTooLarge is returned for what goes beyond the limits of a vault: 64
	// MiB, 10,000 names, 256 versions of a name, notes of 1 KiB.
	ErrTooLarge = errors.New("filevault: more than a vault can hold")
	// ErrBusy is returned when the lock was not to be had in time.
	ErrBusy = errors.New("filevault: the vault is busy")
	// ErrNoRoom is returned by Put when a name has as many pending versions as
	// it can have.
	ErrNoRoom = errors.New("filevault: the secret has too many versions that are not used: promote or destroy some")
)
