package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	gokeyring "github.com/zalando/go-keyring"

	"github.com/twinward-dev/twinward/credential/internal/vaulttest"
)

// The same import into each kind of store, twice: the second does nothing.
func imports(d *desk, store string) {
	d.Helper()
	d.write("env", "GITHUB_TOKEN=ghp_not_a_real_token\n")
	out, _ := d.run(exitOK, "import -from dotenv -promote "+store+" OFFICE @env")
	require.Contains(d, out, "imported GITHUB_TOKEN@1, current\n")
	out, _ = d.run(exitOK, "import -from dotenv -promote "+store+" OFFICE @env")
	require.Contains(d, out, "0 imported, 1 skipped\n")
	require.NotContains(d, d.all.String(), "not_a_real")
}

func TestImportIntoAKeyring(t *testing.T) {
	gokeyring.MockInit()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	imports(newDesk(t), "-keyring twinward")
}

func TestVaultThatTheKeyringOpens(t *testing.T) {
	gokeyring.MockInit()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	d := newDesk(t)
	d.run(exitOK, "create -vault @vault -keyring-key vault OFFICE")
	imports(d, "-vault @vault -keyring-key vault")
	_, errs := d.run(exitFailed, "import -from dotenv -vault @vault -keyring-key another OFFICE @env")
	require.Contains(t, errs, "key-encryption key does not fit")
}

func TestVaultThatAPassphraseOpens(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") == "" {
		t.Skip("each opening takes a second, as it should: set TWINWARD_FULL=1")
	}
	d := newDesk(t)
	d.write("phrase", "correct horse battery staple\n")
	d.run(exitOK, "create -vault @vault -passphrase-file @phrase OFFICE")
	d.write("env", "SHORT=tiny\n")
	out, _ := d.run(exitOK, "import -from dotenv -vault @vault -passphrase-file @phrase OFFICE @env")
	require.Contains(t, out, "0 imported, 1 skipped\n")
	d.write("phrase", "another phrase of four words\n")
	d.run(exitFailed, "import -from dotenv -vault @vault -passphrase-file @phrase OFFICE @env")
}

func TestImportIntoVault(t *testing.T) {
	v := vaulttest.Start(t)
	d := newDesk(t)
	d.write("secret-id", v.SecretID+"\n")
	d.write("token", v.RootToken+"\n")
	imports(d, "-openbao "+v.Address+" -role-id "+v.RoleID+" -secret-id-file @secret-id -folder agents")
	imports(d, "-openbao "+v.Address+" -token-file @token -folder others")
	d.write("token", "hvs.not-a-token-of-this-server\n")
	_, errs := d.run(exitFailed, "import -from dotenv -openbao "+v.Address+" -token-file @token OFFICE @env")
	require.Contains(t, errs, "the server refuses")
	require.NotContains(t, d.all.String(), v.SecretID)
	require.NotContains(t, d.all.String(), "not-a-token")
}
