package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/filevault"
	"github.com/twinward-dev/twinward/credential/hostenv"
	"github.com/twinward-dev/twinward/credential/keyring"
	"github.com/twinward-dev/twinward/credential/openbao"
)

// An office says who does something, why, and where that is on record.
type office struct{ by, reason, log string }

func (o *office) register(fs *flag.FlagSet) {
	fs.StringVar(&o.by, "by", "", "who does it")
	fs.StringVar(&o.reason, "reason", "", "why")
	fs.StringVar(&o.log, "log", "", "the folder of the audit log that it is recorded in")
}

func (o *office) change() (audit.Change, error) {
	by := audit.Change{By: o.by, Reason: o.reason}
	if by.Validate() != nil || o.log == "" {
		return by, fmt.Errorf("%w: -by, -reason and -log are required", errUsage)
	}
	return by, nil
}

// do opens the log, does one thing and closes it.
func (o *office) do(f func(log *audit.Log, by audit.Change) error) error {
	by, err := o.change()
	if err != nil {
		return err
	}
	log, err := audit.Open(o.log, nil)
	if err != nil {
		return err
	}
	return errors.Join(f(log, by), log.Close())
}

// isLog returns an error unless there is a folder of that name, for commands that
// read a log and must not make one.
func isLog(dir string) error {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return fmt.Errorf("%w: -log is the folder of an audit log", errUsage)
	}
	return nil
}

// A place is the flags that say where secrets are.
type place struct {
	vault   string
	id      string
	key     keyFlags
	keyring string
	openbao string

	tokenFile, roleID, secretIDFile string
	options                         openbao.Options
}

func (p *place) register(fs *flag.FlagSet) {
	fs.StringVar(&p.vault, "vault", "", "a vault in this file")
	registerID(fs, &p.id)
	p.key.register(fs)
	fs.StringVar(&p.keyring, "keyring", "", "the keyring of this user, under this service")
	fs.StringVar(&p.openbao, "openbao", "", "the URL of OpenBao or HashiCorp Vault")
	fs.StringVar(&p.tokenFile, "token-file", "", "a file with a token for it")
	fs.StringVar(&p.roleID, "role-id", "", "the AppRole to log in as")
	fs.StringVar(&p.secretIDFile, "secret-id-file", "", "a file with the AppRole's secret id")
	fs.StringVar(&p.options.Mount, "mount", "", "where the key-value engine is mounted")
	fs.StringVar(&p.options.Folder, "folder", "", "the folder of the secrets in it")
	fs.StringVar(&p.options.Namespace, "namespace", "", "the namespace")
}

func registerID(fs *flag.FlagSet, id *string) {
	fs.StringVar(id, "vault-id", "", "the id that the vault in the file has to have, as create and list say it")
}

// open returns the store, and what closes it.
func (p *place) open(ctx context.Context, log *audit.Log) (credential.WritableStore, func() error, error) {
	given := 0
	for _, s := range []string{p.vault, p.keyring, p.openbao} {
		if s != "" {
			given++
		}
	}
	nothing := func() error { return nil }
	switch {
	case given != 1:
		return nil, nil, fmt.Errorf("%w: want one of -vault, -keyring and -openbao", errUsage)
	case p.id != "" && p.vault == "":
		return nil, nil, fmt.Errorf("%w: -vault-id is for -vault", errUsage)
	case p.keyring != "":
		s, err := keyring.New(&keyring.Options{Service: p.keyring})
		return s, nothing, err
	case p.openbao != "":
		login, err := p.login()
		if err != nil {
			return nil, nil, err
		}
		s, err := openbao.New(p.openbao, login, &p.options)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	kek, err := p.key.kek(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	s, err := filevault.Open(ctx, p.vault, kek, vaultOptions(log, p.id))
	return s, nothing, err
}

// vaultOptions make the log the witness of a vault's saves.
func vaultOptions(log *audit.Log, id string) *filevault.Options {
	o := &filevault.Options{ID: id}
	if log != nil {
		o.Witness = filevault.LogWitness(log)
	}
	return o
}

func (p *place) login() (openbao.Login, error) {
	switch {
	case (p.tokenFile == "") == (p.roleID == "") || (p.roleID == "") != (p.secretIDFile == ""):
		return openbao.Login{}, fmt.Errorf("%w: want either -token-file, or -role-id with -secret-id-file", errUsage)
	case p.tokenFile != "":
		token, err := secretFile(p.tokenFile)
		return openbao.Token(token), err
	}
	id, err := secretFile(p.secretIDFile)
	return openbao.AppRole(p.roleID, id), err
}

// The keyFlags say what opens a vault in a file.
type keyFlags struct{ identity, passphrase, keyring string }

func (k *keyFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&k.identity, "identity", "", "an age identity file that opens the vault")
	fs.StringVar(&k.passphrase, "passphrase-file", "", "a file with the passphrase that opens the vault")
	fs.StringVar(&k.keyring, "keyring-key", "", "the key in this user's keyring that opens the vault")
}

// kek returns the key-encryption key. With fresh, an identity that is not there
// is made.
func (k *keyFlags) kek(ctx context.Context, fresh bool) (audit.KEK, error) {
	given := 0
	for _, s := range []string{k.identity, k.passphrase, k.keyring} {
		if s != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, fmt.Errorf("%w: want one of -identity, -passphrase-file and -keyring-key", errUsage)
	case k.keyring != "":
		return keyring.KEK(ctx, k.keyring, nil)
	case k.passphrase != "":
		phrase, err := secretFile(k.passphrase)
		if err != nil {
			return nil, err
		}
		return filevault.Passphrase(phrase), nil
	}
	if _, err := os.Lstat(k.identity); fresh && errors.Is(err, fs.ErrNotExist) {
		return filevault.CreateIdentity(k.identity)
	}
	return filevault.LoadIdentity(k.identity)
}

var createCommand = command{
	name: "create", args: "-vault FILE KEY OFFICE",
	prepare: func(flags *flag.FlagSet) func(context.Context, []string, streams) error {
		var o office
		var key keyFlags
		o.register(flags)
		key.register(flags)
		path := flags.String("vault", "", "the file to make")
		return func(ctx context.Context, args []string, std streams) error {
			if *path == "" || len(args) > 0 {
				return fmt.Errorf("%w: -vault is required, and nothing follows the flags", errUsage)
			}
			return o.do(func(log *audit.Log, by audit.Change) error {
				if _, err := os.Lstat(*path); err == nil {
					return fmt.Errorf("%w: %s", fs.ErrExist, *path)
				}
				kek, err := key.kek(ctx, true)
				if err != nil {
					return err
				}
				if err := log.Append(ctx, audit.Event{
					Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: "create_vault", Resource: "Vault::" + strconv.Quote(*path),
					Change: &by, Detail: map[string]string{"kek": kek.ID()},
				}); err != nil {
					return err
				}
				s, err := filevault.Create(ctx, *path, kek, vaultOptions(log, ""))
				if err != nil {
					return err
				}
				fmt.Fprintf(std.out, "made %s, which %s opens: keep the two apart, and a copy of each\n", *path, kek.ID())
				fmt.Fprintf(std.out, "its id is %s: keep it for -vault-id, so that no other vault is taken for it\n", s.ID())
				return nil
			})
		}
	},
}

// secretFile reads a file that holds one secret and that nobody else can read.
func secretFile(path string) (credential.Secret, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return credential.Secret{}, err
	}
	files, err := hostenv.New(map[string]hostenv.Source{"it": {File: path}}, nil)
	if err != nil {
		return credential.Secret{}, err
	}
	_, secret, err := files.Get(context.Background(), credential.Ref{Name: "it"})
	if errors.Is(err, credential.ErrUnknown) {
		err = fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return secret, err
}

// parseTime reads a time, a date, or a duration before or after now.
func parseTime(text string, now time.Time, sign time.Duration) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(sign * d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %q is no time, such as 2026-11-28T09:00:00Z, 2026-11-28 or 36h", errUsage, text)
}
