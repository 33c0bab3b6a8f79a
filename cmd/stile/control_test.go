package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/control"
)

// stile runs the program and returns its standard output.
func stile(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("stile %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// watched is a VM that runs in another process.
type watched struct {
	t    *testing.T
	id   string
	path string // of its vsock socket
}

// info asks the VM what it is.
func (w *watched) info() control.Info {
	w.t.Helper()
	var info control.Info
	if err := json.Unmarshal([]byte(stile(w.t, "ctl", w.id, "status")), &info); err != nil {
		w.t.Fatal(err)
	}
	return info
}

// shown checks what ps and status say of the VM.
func (w *watched) shown(kernel string) {
	w.t.Helper()
	if list := stile(w.t, "ps"); !strings.Contains(list, "\n"+w.id+" ") {
		w.t.Errorf("stile ps: %s", list)
	}
	var list []control.Info
	if err := json.Unmarshal([]byte(stile(w.t, "ps", "--json")), &list); err != nil || len(list) != 1 {
		w.t.Fatalf("stile ps --json: %v, %v", list, err)
	}
	in := w.info()
	if list[0].ID != w.id || in.State != control.Running || in.Kernel != kernel || in.CPUs != 1 || in.Memory != 512<<20 || len(in.Command) == 0 {
		w.t.Errorf("status %+v", in)
	}
	w.path = in.Vsock.Path
}

// toGuest sends data to the guest's echo by vsock.
func (w *watched) toGuest(port int, size int) {
	w.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.path, Net: "unix"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT %d\n", port)
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); !strings.HasPrefix(line, "OK ") {
		w.t.Fatalf("CONNECT: %q, %v", line, err)
	}
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	go func() {
		_, _ = conn.Write(data) // what is missing is missed below
		_ = conn.CloseWrite()
	}()
	if got, err := io.ReadAll(in); !bytes.Equal(got, data) {
		w.t.Errorf("by vsock to the guest and back: %d bytes of %d, or others, %v", len(got), size, err)
	}
	refused, err := net.Dial("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer refused.Close()
	fmt.Fprintf(refused, "CONNECT %d\n", port+1)
	if got, _ := io.ReadAll(refused); len(got) > 0 {
		w.t.Errorf("a port that nobody listens on says %q", got)
	}
}

// fromGuest answers a connection of the guest to a port of the host.
func (w *watched) fromGuest(l *net.UnixListener, want, answer string) {
	w.t.Helper()
	if err := l.SetDeadline(time.Now().Add(processLimit)); err != nil {
		w.t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, answer)
	_ = conn.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != want || err != nil {
		w.t.Errorf("by vsock from the guest: %q, %v", got, err)
	}
}

// balloon has the guest give memory, and take it again.
func (w *watched) balloon(size uint64) {
	w.t.Helper()
	stile(w.t, "ctl", w.id, "balloon", fmt.Sprintf("%dM", size>>20))
	w.until("the balloon to fill", func(i control.Info) bool { return i.Balloon.Actual == size && i.Balloon.Target == size })
	stile(w.t, "ctl", w.id, "balloon", "0")
	w.until("the balloon to empty", func(i control.Info) bool { return i.Balloon.Actual == 0 })
	w.until("a free page to be reported", func(i control.Info) bool { return i.Balloon.Reported > 0 })
}

func (w *watched) until(what string, ok func(control.Info) bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		info := w.info()
		if info.Balloon != nil && ok(info) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s: %+v", what, info.Balloon)
		}
	}
}

// console checks that several viewers see the console, and the log.
func (w *watched) console(want string) {
	w.t.Helper()
	for _, args := range [][]string{{"console", w.id}, {"logs", "-f", w.id}} {
		cmd := exec.CommandContext(w.t.Context(), filepath.Join(tools, "stile"), args...)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			w.t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			w.t.Fatal(err)
		}
		seen := false
		for lines := bufio.NewScanner(stdout); !seen && lines.Scan(); {
			seen = strings.Contains(lines.Text(), want)
		}
		if !seen {
			w.t.Errorf("stile %s does not show %q", strings.Join(args, " "), want)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
}
