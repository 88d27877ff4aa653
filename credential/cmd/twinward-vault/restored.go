package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/filevault"
)

var restoredCommand = command{
	name: "restored", args: "-vault FILE [-vault-id ID] KEY OFFICE",
	prepare: func(flags *flag.FlagSet) func(context.Context, []string, streams) error {
		var o office
		var key keyFlags
		o.register(flags)
		key.register(flags)
		var id string
		registerID(flags, &id)
		path := flags.String("vault", "", "the file that was restored from a backup")
		return func(ctx context.Context, args []string, std streams) error {
			if *path == "" || len(args) > 0 {
				return fmt.Errorf("%w: -vault is required, and nothing follows the flags", errUsage)
			}
			kek, err := key.kek(ctx, false)
			if err != nil {
				return err
			}
			return o.do(func(log *audit.Log, by audit.Change) error {
				if err := log.Append(ctx, audit.Event{
					Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: "restore_vault", Resource: "Vault::" + strconv.Quote(*path), Change: &by,
				}); err != nil {
					return err
				}
				options := vaultOptions(log, id)
				options.Restored = true
				if _, err := filevault.Open(ctx, *path, kek, options); err != nil {
					return err
				}
				fmt.Fprintf(std.out, "%s is taken for the newest: what was saved after it is lost, and what was revoked after it is to be revoked again\n", *path)
				return nil
			})
		}
	},
}
