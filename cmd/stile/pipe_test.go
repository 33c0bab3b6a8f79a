package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

const (
	// pipeSize is how much goes through the guest and back, in bytes.
	pipeSize = 64 << 20
	// envPipeMiB asks for another size, in MiB: make soak sends a thousand.
	envPipeMiB = "STILE_TEST_PIPE_MIB"
)

// TestPipe sends bytes through a command in the guest: all come back, in order, and while nobody reads
// them nobody has to hold them.
func TestPipe(t *testing.T) {
	needGuests(t)
	size := int64(pipeSize)
	if text := os.Getenv(envPipeMiB); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", envPipeMiB, err)
		}
		size = int64(n) << 20
	}
	sent := sha256.New()
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--", "cat")
	cmd.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	received := sha256.New()
	n, err := io.CopyN(received, stdout, 1)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // the guest fills every buffer there is, and waits
	rest, err := io.Copy(received, stdout)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if n+rest != size {
		t.Errorf("%d bytes came back of %d", n+rest, size)
	}
	if got, want := hex.EncodeToString(received.Sum(nil)), hex.EncodeToString(sent.Sum(nil)); got != want {
		t.Errorf("what came back has the hash %s, what was sent %s", got, want)
	}
}
