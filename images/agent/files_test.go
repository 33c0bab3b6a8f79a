package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// pulled returns what a host gets of a file.
func pulled(t *testing.T, path string) (string, error) {
	t.Helper()
	var wire, data bytes.Buffer
	pull(&agentproto.Pull{Path: path}, &wire)
	if _, err := agentproto.ReadReply(&wire); err != nil {
		return "", err
	}
	if err := agentproto.ReadChunks(&data, &wire, math.MaxInt64); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	_, err := agentproto.ReadReply(&wire)
	return data.String(), err
}

// TestPullToTheEnd: files of which the file system does not know the length come whole, and one whose read fails says so.
func TestPullToTheEnd(t *testing.T) {
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, bytes.Repeat([]byte("0123456789"), 50_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{long, "/proc/self/limits", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_seqnum", os.DevNull + "x"} {
		want, wantErr := os.ReadFile(path)
		got, err := pulled(t, path)
		if (err != nil) != (wantErr != nil) || got != string(want) {
			t.Errorf("%s: %d bytes, %v; want %d, %v", path, len(got), err, len(want), wantErr)
		}
	}
	// A read at 0 fails with EIO: nothing is mapped there.
	if got, err := pulled(t, "/proc/self/mem"); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a read that fails: %q, %v", got, err)
	}
}

// TestPushInPlace: what can't be replaced is written to, with one write.
func TestPushInPlace(t *testing.T) {
	push := func(path, text string, chunks bool) error {
		p := &agentproto.Push{Path: path, Mode: 0o644, Size: int64(len(text)), Chunks: chunks}
		var r io.Reader = strings.NewReader(text)
		if chunks {
			var wire bytes.Buffer
			if err := agentproto.WriteChunks(&wire, r); err != nil {
				t.Fatal(err)
			}
			p.Size, r = 0, &wire
		}
		return push(p, r)
	}
	comm := fmt.Sprintf("/proc/%d/comm", os.Getpid())
	old, err := os.ReadFile(comm)
	if err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(comm, bytes.TrimSpace(old), 0)
	for i, chunks := range []bool{false, true} {
		want := fmt.Sprint("name", i)
		if err := push(comm, want, chunks); err != nil {
			t.Errorf("%s: %v", comm, err)
		}
		if got, _ := os.ReadFile(comm); string(got) != want+"\n" {
			t.Errorf("%s has %q", comm, got)
		}
	}
	dir := t.TempDir()
	if err := push(dir, "text", false); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a folder: %v", err)
	}
	fifo := filepath.Join(dir, "link-to-null")
	if err := os.Symlink(os.DevNull, fifo); err != nil {
		t.Fatal(err)
	}
	if err := push(fifo, "text", true); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode()&os.ModeDevice == 0 {
		t.Fatalf("%s was replaced: %v, %v", os.DevNull, info.Mode(), err)
	}
	plain := filepath.Join(dir, "sub", "plain")
	if err := push(plain, "text", true); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(plain); string(got) != "text" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPackKernelFiles: a folder of sysfs, whose sizes are a page each, is packed with what its files have.
func TestPackKernelFiles(t *testing.T) {
	const dir = "/sys/kernel/mm/transparent_hugepage"
	if _, err := os.Stat(dir + "/enabled"); err != nil {
		t.Log(err)
		return
	}
	if names := packedNames(t, dir, time.Time{}); len(names) == 0 {
		t.Error("nothing is packed")
	}
}

// TestPackShrinking: a file that lacks what its size says breaks neither the archive nor the files behind it, and is named.
func TestPackShrinking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("end"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 10}); err != nil {
		t.Fatal(err)
	}
	var unread unreadable
	if err := packRest(out, f, path, 10, &unread); err != nil || unread.n != 1 {
		t.Errorf("%v, %v", err, unread.err())
	}
	if err := out.Close(); err != nil {
		t.Error(err)
	}
}
