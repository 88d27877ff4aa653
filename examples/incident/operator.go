package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/postgres"
)

// The people of this story, and why they did what is on record.
const (
	owner    = "platform-team@example.com"
	granter  = "eve@example.com"
	deployer = "carol@example.com"
	approver = "dana@example.com"
	operator = "oscar@example.com"
	incident = "INC-7: it posts what nobody asked for"
)

var (
	registrar = audit.Change{By: "ann@example.com", Reason: "HR-12: a new agent"}
	promoter  = audit.Change{By: "bob@example.com", Reason: "HR-13: its trial is over"}
)

// An office is where people run the commands of this project. Each of their acts
// is in a log of the office's own.
type office struct {
	bin  string // with the commands
	host string // the host's folder, where the vault is
	log  string
	db   string
	mu   sync.Mutex // held by the command that has the log open
}

// buildCommands builds the real commands into a folder.
func buildCommands(ctx context.Context, bin string) error {
	const module = "github.com/twinward-dev/twinward"
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", bin+string(os.PathSeparator), module+"/credential/cmd/twinward-vault", module+"/audit/cmd/twinward-audit")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the commands: %w\n%s", err, out)
	}
	return nil
}

// vault runs twinward-vault as somebody, with what it reads on its standard input.
func (o *office) vault(ctx context.Context, by, reason, input string, args ...string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	words := strings.Fields(args[0])
	args = append(append(words, "-by", by, "-reason", reason, "-log", o.log), args[1:]...)
	cmd := exec.CommandContext(ctx, filepath.Join(o.bin, "twinward-vault"), args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("twinward-vault %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// store is where the vault is, for a command.
func (o *office) store() []string {
	return []string{"-vault", filepath.Join(o.host, "vault"), "-identity", filepath.Join(o.host, "vault.key")}
}

// furnish makes the vault, with a token of each vendor that may go there only,
// and registers the agents.
func (o *office) furnish(ctx context.Context, w *world) error {
	if err := o.vault(ctx, granter, "SEC-1: a vault for the night", "", append([]string{"create"}, o.store()...)...); err != nil {
		return err
	}
	for _, vendor := range vendors {
		if err := o.bind(ctx, w, vendor, w.url(vendor)); err != nil {
			return err
		}
	}
	if o.db == "" {
		return nil
	}
	pool, err := pgxpool.New(ctx, o.db)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool); err != nil {
		return err
	}
	for _, name := range agentNames {
		if err := o.vault(ctx, registrar.By, registrar.Reason, "", "agents register", "-db", o.db, "-owner", owner, "-profile", "trainee", name); err != nil {
			return err
		}
		if err := o.vault(ctx, promoter.By, promoter.Reason, "", "agents assign", "-db", o.db, "-profile", "night", name); err != nil {
			return err
		}
	}
	return nil
}

// bind puts the first token of a vendor into the vault, for its address only.
func (o *office) bind(ctx context.Context, w *world, vendor, url string) error {
	if err := o.renew(ctx, w, vendor, 1); err != nil {
		return err
	}
	spec := []string{"bind", "-origin", url}
	if vendor == "forge" {
		spec = append(spec, "-type", "basic", "-user", "x-access-token")
	}
	return o.vault(ctx, granter, "SEC-2: for the night's agents", "", append(append(spec, o.store()...), vendor)...)
}

// renew has a vendor issue a token, and makes it the current version of its secret.
func (o *office) renew(ctx context.Context, w *world, vendor string, version int) error {
	reason := fmt.Sprintf("SEC-%d: version %d", 10+version, version)
	if err := o.vault(ctx, granter, reason, w.issue(vendor), append([]string{"put"}, append(o.store(), vendor)...)...); err != nil {
		return err
	}
	return o.vault(ctx, granter, reason, "", append([]string{"promote"}, append(o.store(), vendor)...)...)
}

// rotate renews a vendor's secret under load: once both agents bring the new
// token, the old one is withdrawn at the vendor and revoked in the vault.
func (o *office) rotate(ctx context.Context, w *world, vendor string, version int) error {
	if err := o.renew(ctx, w, vendor, version); err != nil {
		return err
	}
	for _, name := range agentNames {
		err := w.await(ctx, name+" uses the new token of "+vendor, func() bool {
			return len(w.entries(func(e entry) bool { return e.vendor == vendor && e.agent == name && e.token == version })) > 0
		})
		if err != nil {
			return err
		}
	}
	w.withdraw(vendor)
	return o.vault(ctx, granter, fmt.Sprintf("SEC-%d: version %d is not used any more", 10+version, version-1), "",
		append([]string{"revoke"}, append(o.store(), fmt.Sprintf("%s@%d", vendor, version-1))...)...)
}

// key is what verifies the office's log.
func (o *office) key() (string, error) {
	key, err := audit.LoadKey(o.log + ".key")
	if err != nil {
		return "", err
	}
	return key.VerifierKey(), nil
}

// copyFolder copies the files of a folder, as a backup does while they are written to.
func copyFolder(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
