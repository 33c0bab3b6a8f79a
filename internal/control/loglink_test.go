package control

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLogBehindLink: a log neither overwrites nor shows what a link leads to, nor waits for a FIFO.
func TestLogBehindLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, LogPath(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(LogPath(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"link", "fifo"} {
		c := NewConsole()
		if _, err := NewLog(dir, id, c); err == nil {
			t.Errorf("%s: taken for a log", id)
		}
		c.Close()
	}
	if size, err := ReadLog(dir, "link", os.Stdout); err == nil {
		t.Errorf("read %d bytes through a link", size)
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "secret" {
		t.Errorf("the file behind the link has %q, %v", text, err)
	}
}
