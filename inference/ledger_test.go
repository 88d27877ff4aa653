package inference_test

import (
	"testing"

	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/internal/ledgertest"
)

func TestMemoryLedger(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) inference.Ledger { return inference.NewMemoryLedger() })
}
