package agent

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// closable is a stream whose end is the test's to choose.
type closable struct {
	bytes.Buffer
	closed chan struct{}
}

func (c *closable) Read([]byte) (int, error) { <-c.closed; return 0, unix.ECONNRESET }

// TestKmsg reads records of a FIFO, each of which is one read as with /dev/kmsg.
func TestKmsg(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("6,7,100,-;seven\n SUBSYSTEM=pci\n")); err != nil {
		t.Fatal(err)
	}
	s := &closable{closed: make(chan struct{})}
	kmsg(path, &agentproto.Kmsg{}, s)
	if s.String() != "6,7,100,-;seven\n" {
		t.Errorf("%q", s.String())
	}
	if _, err := unix.Write(fd, []byte("6,8,100,-;eight\n")); err != nil {
		t.Fatal(err)
	}
	s = &closable{closed: make(chan struct{})}
	kmsg(path, &agentproto.Kmsg{From: 9}, s)
	if s.Len() > 0 {
		t.Errorf("%q", s.String())
	}
	time.AfterFunc(50*time.Millisecond, func() { close(s.closed) })
	done := make(chan struct{})
	go func() { defer close(done); kmsg(path, &agentproto.Kmsg{Follow: true}, s) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end with its stream")
	}
	kmsg(filepath.Join(t.TempDir(), "absent"), &agentproto.Kmsg{Follow: true}, s)
	if sequence([]byte("6,18446744073709551615,1,-;x")) != 1<<64-1 || sequence([]byte(strings.Repeat(",", 9))) != 0 {
		t.Error("sequence")
	}
}
