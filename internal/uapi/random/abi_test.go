package random

import (
	"testing"

	"github.com/stile-vmm/stile/internal/uapi/golden"
)

const goldenFile = "testdata/facts.golden"

func TestGoldenFileIsWhatTheHeadersSay(t *testing.T) {
	golden.Program(t, "testdata/facts.c", goldenFile)
}

func TestABI(t *testing.T) {
	facts := golden.Facts{"RNDADDENTROPY": AddEntropy, "RNDRESEEDCRNG": ReseedCRNG}
	if err := facts.Struct("rand_pool_info", PoolInfo{}, "entropy_count buf_size buf"); err != nil {
		t.Fatal(err)
	}
	facts["rand_pool_info"] -= Seed // C's array has no length
	golden.Check(t, goldenFile, facts)
}
