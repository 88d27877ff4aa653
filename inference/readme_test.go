package inference

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The configuration that the README shows is one.
func TestReadmeConfig(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "## The model door")
	require.True(t, ok)
	_, section, ok = strings.Cut(section, "```yaml\n")
	require.True(t, ok)
	config, _, ok := strings.Cut(section, "```")
	require.True(t, ok)
	cfg, err := ParseConfig("README.md", []byte(config))
	require.NoError(t, err)
	assert.Len(t, cfg.Routes, 1)
	assert.Len(t, cfg.Spend.Budgets, 1)
}
