package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/filevault"
)

// A desk is a folder with what the command works on, and all that it said.
type desk struct {
	*testing.T
	dir string
	in  string       // what is on standard input
	all bytes.Buffer // every output so far
}

func newDesk(t *testing.T) *desk {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	return &desk{T: t, dir: dir}
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

// run runs one command line. OFFICE and VAULT stand for their flags, and words
// that begin with @ for files on the desk.
func (d *desk) run(want int, line string) (stdout, stderr string) {
	d.Helper()
	var args []string
	for word := range strings.FieldsSeq(line) {
		switch {
		case word == "OFFICE":
			args = append(args, "-by", "ann", "-reason", "a test of it", "-log", d.path("log"))
		case word == "VAULT":
			args = append(args, "-vault", d.path("vault"), "-identity", d.path("identity"))
		case strings.HasPrefix(word, "@"):
			args = append(args, d.path(word[1:]))
		default:
			args = append(args, word)
		}
	}
	var out, errs bytes.Buffer
	code := run(d.Context(), args, streams{strings.NewReader(d.in), &out, &errs})
	d.all.Write(out.Bytes())
	d.all.Write(errs.Bytes())
	require.Equal(d, want, code, "%s\n%s%s", line, &out, &errs)
	return out.String(), errs.String()
}

func (d *desk) write(name, text string) {
	d.Helper()
	require.NoError(d, os.WriteFile(d.path(name), []byte(text), 0o600))
}

// files returns the content of a file, or of all files in a folder.
func (d *desk) files(name string) (all []byte) {
	d.Helper()
	require.NoError(d, filepath.WalkDir(d.path(name), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			all = append(all, b...)
		}
		return err
	}))
	return all
}

// acts lists what is on record: the action, the resource and who.
func (d *desk) acts() []string {
	d.Helper()
	var all []string
	for r, err := range audit.Scan(d.Context(), os.DirFS(d.path("log")), audit.Filter{}) {
		require.NoError(d, err)
		if r.Event != nil && r.Event.Change != nil {
			all = append(all, r.Event.Action+" "+r.Event.Resource+" "+r.Event.Change.By)
		}
	}
	return all
}

func TestImport(t *testing.T) {
	d := newDesk(t)
	github, slack, later := credentialtest.Canary(), credentialtest.Canary(), credentialtest.Canary()
	d.run(exitOK, "create VAULT OFFICE")
	d.write("env", "# mine\nGITHUB_TOKEN="+github+"\nPORT=8080\nSLACK='"+slack+"'\n")

	out, _ := d.run(exitOK, "import -from dotenv -dry-run VAULT @env")
	require.Equal(t, "would import GITHUB_TOKEN\nwould import SLACK\nskipped  line 3, PORT: shorter than 8 bytes: too short to be found in what comes back, and to be a secret\n", out)
	require.Len(t, d.acts(), 1, "nothing was done")

	out, _ = d.run(exitOK, "import -from dotenv -only SLACK -prefix team/ -promote VAULT OFFICE @env")
	require.Equal(t, `imported team/SLACK@1, current
skipped  line 2, GITHUB_TOKEN: not asked for
skipped  line 3, PORT: shorter than 8 bytes: too short to be found in what comes back, and to be a secret
1 imported, 2 skipped
The file still has them in the clear: once the vault's are tried, delete it.
`, out)
	require.Equal(t, []string{
		`create_vault Vault::"` + d.path("vault") + `" ann`,
		`put_credential Credential::"team/SLACK" ann`,
		audit.ActionRotateCredential + ` Credential::"team/SLACK" ann`,
	}, d.acts())

	// Nothing is overwritten.
	d.write("credentials.json", `{"SLACK": "`+later+`", "GITHUB_TOKEN": "`+github+`"}`)
	out, _ = d.run(exitOK, "import -from nemoclaw -prefix team/ VAULT OFFICE @credentials.json")
	require.Contains(t, out, "imported team/GITHUB_TOKEN@1, pending\n")
	require.Contains(t, out, "skipped  line 1, SLACK: the store has a secret of that name")
	kek, err := filevault.LoadIdentity(d.path("identity"))
	require.NoError(t, err)
	v, err := filevault.Open(t.Context(), d.path("vault"), kek, nil)
	require.NoError(t, err)
	version, secret, err := v.Get(t.Context(), credential.Ref{Name: "team/SLACK"})
	require.NoError(t, err)
	require.True(t, secret.Equal(credential.NewSecret([]byte(slack))))
	require.Equal(t, "imported from env", version.Note)

	// No value was printed, recorded, or left in the vault in the clear.
	captured := [][]byte{d.all.Bytes()}
	for _, name := range []string{"log", "vault", "identity"} {
		require.NoError(t, filepath.WalkDir(d.path(name), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				var b []byte
				b, err = os.ReadFile(path)
				captured = append(captured, b)
			}
			return err
		}))
	}
	var known credential.Scrubber
	for _, s := range []string{github, slack, later} {
		require.NoError(t, known.Add("imported", credential.NewSecret([]byte(s))))
	}
	credentialtest.AssertNoLeak(t, &known, captured...)
}

func TestImportOfWhatIsNone(t *testing.T) {
	d := newDesk(t)
	d.run(exitOK, "create VAULT OFFICE")
	d.write("torn", `{"A": "torn-secret-value`)
	_, errs := d.run(exitFailed, "import -from nemoclaw VAULT OFFICE @torn")
	require.Contains(t, errs, "nothing was imported")
	require.NotContains(t, errs, "torn-secret")
	d.write("large", strings.Repeat("x", maxImportBytes+1))
	d.run(exitFailed, "import -from dotenv VAULT OFFICE @large")
	d.run(exitFailed, "import -from dotenv VAULT OFFICE @missing")
	d.run(exitFailed, "import -from dotenv VAULT OFFICE "+d.dir)
	d.write("open", "A=readable-by-all")
	require.NoError(t, os.Chmod(d.path("open"), 0o644))
	_, errs = d.run(exitOK, "import -from dotenv -dry-run VAULT @open")
	require.Contains(t, errs, "others can read")
	require.Len(t, d.acts(), 1)
}

func TestUsage(t *testing.T) {
	d := newDesk(t)
	d.write("env", "A=a-value-here")
	out, _ := d.run(exitOK, "help")
	for _, c := range commands {
		require.Contains(t, out, "twinward-vault "+c.name+" ")
	}
	for _, line := range []string{
		"", "burn", "agents", "agents burn", "import", "import -from dotenv VAULT @env", "import -from toml VAULT OFFICE @env",
		"import -from dotenv OFFICE @env", "import -from dotenv VAULT -keyring x OFFICE @env", "import -from dotenv VAULT OFFICE @env @env",
		"import -from dotenv -only B VAULT OFFICE @env", "import -from dotenv -openbao https://v.example OFFICE @env",
		"import -from dotenv -vault @vault OFFICE @env", "create -vault @vault OFFICE", "create VAULT -by ann", "import -unknown",
		"agents freeze a", "agents freeze OFFICE", "agents used a", "agents used -log @nowhere a",
	} {
		d.run(exitUsage, line)
	}
	require.NoFileExists(t, d.path("vault"))
}
