package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// vm is a handler with a console.
type vm struct {
	console *Console
	mu      sync.Mutex
	got     []Request
}

func (v *vm) Handle(_ context.Context, r *Request) (Reply, func(io.ReadWriter), error) {
	v.mu.Lock()
	v.got = append(v.got, *r)
	v.mu.Unlock()
	switch r.Op {
	case OpInfo:
		return Reply{Info: &Info{ID: "x", Command: []string{strings.Repeat("long", 1<<16)}}}, nil, nil
	case OpLog:
		return Reply{}, func(conn io.ReadWriter) { _, _ = io.Copy(conn, struct{ io.Reader }{v.console.View()}) }, nil
	case OpBalloon:
		return Reply{}, nil, errors.New("no balloon here")
	}
	return Reply{}, nil, nil
}

func serve(t *testing.T, id string) (*vm, *Server) {
	t.Helper()
	t.Setenv(EnvDir, filepath.Join(t.TempDir(), "run"))
	v := &vm{console: NewConsole()}
	s, err := Serve(id, v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return v, s
}

func TestRequests(t *testing.T) {
	v, s := serve(t, "web")
	ctx := t.Context()
	reply, err := Call(ctx, "web", &Request{Op: OpInfo})
	if err != nil || reply.Info == nil || reply.Info.ID != "x" || len(reply.Info.Command) != 1 {
		t.Fatalf("info: %+v, %v", reply, err)
	}
	if _, err := Call(ctx, "web", &Request{Op: OpBalloon, Size: 1}); err == nil || err.Error() != "no balloon here" {
		t.Errorf("balloon: %v", err)
	}
	if _, err := Call(ctx, "web", &Request{Op: OpResize, Disk: "a", Size: 512}); err != nil {
		t.Error(err)
	}
	if _, err := Call(ctx, "web", &Request{Op: OpResize}); err == nil {
		t.Error("a resize of nothing is accepted")
	}
	want := []Request{{Op: OpInfo}, {Op: OpBalloon, Size: 1}, {Op: OpResize, Disk: "a", Size: 512}}
	if fmt.Sprint(v.got) != fmt.Sprint(want) {
		t.Errorf("handled %v, want %v", v.got, want)
	}
	var none *NoVMError
	if _, err := Call(ctx, "other", &Request{Op: OpInfo}); !errors.As(err, &none) {
		t.Errorf("no VM: %v", err)
	}
	list, err := List(ctx)
	if err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := Serve("web", v); err == nil {
		t.Error("a second VM of the same name is accepted")
	}
	path, _ := Path("web")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestStream(t *testing.T) {
	v, s := serve(t, "web")
	fmt.Fprintf(v.console, "before ")
	_, conn, err := Attach(t.Context(), "web", &Request{Op: OpLog})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(v.console, "after")
	_ = v.console.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if string(got) != "before after" || err != nil {
		t.Errorf("viewer got %q, %v", got, err)
	}
}

// A socket whose process was killed is not listed, and goes with the next VM's start.
func TestSweep(t *testing.T) {
	serve(t, "alive")
	dead, err := Path("dead")
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dead)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if list, err := List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("list %v, %v", list, err)
	}
	s, err := Serve("another", &vm{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := IDs()
	if err != nil || strings.Join(list, " ") != "alive another" {
		t.Errorf("sockets %v, %v", list, err)
	}
	if id, err := Find("al"); id != "alive" || err != nil {
		t.Errorf("find al: %q, %v", id, err)
	}
	if id, err := Find("a"); err == nil {
		t.Errorf("find a: %q", id)
	}
}

func TestHostileClients(t *testing.T) {
	serve(t, "web")
	path, _ := Path("web")
	for _, text := range []string{
		"", "\n", "{", "{}\n", "[]\n", `{"op":"fly"}` + "\n", `{"op":"info"}{"op":"info"}` + "\n", `{"op":"info","more":1}` + "\n",
		`{"op":"balloon","size":-1}` + "\n", `{"op":"balloon","size":1e99}` + "\n", "\x00\xff\xfe\n", strings.Repeat("x", maxMessage) + "\n",
		strings.Repeat("[", maxMessage-2) + "\n", `{"op":"resize","disk":"` + strings.Repeat("d", maxMessage),
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text) // may be refused half-way
		_ = conn.(*net.UnixConn).CloseWrite()
		var reply Reply
		if err := readMessage(conn, &reply); err == nil && reply.Error == "" {
			t.Errorf("%.40q is answered by %+v", text, reply)
		}
		conn.Close()
	}
	// Those who say nothing use up the room, and no more; when they go, there is room again.
	var idle []net.Conn
	for range maxConns + 8 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	for _, conn := range idle {
		conn.Close()
	}
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := Call(t.Context(), "web", &Request{Op: OpInfo}); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestConsoleViews(t *testing.T) {
	c := NewConsole()
	whole, slow := c.View(), c.View()
	var got bytes.Buffer
	var read sync.WaitGroup
	read.Go(func() { _, _ = io.Copy(&got, struct{ io.Reader }{whole}) })
	var want bytes.Buffer
	for i := range 40000 {
		line := fmt.Sprintf("line %d\r\n", i)
		want.WriteString(line)
		for seen := 0; want.Len()-seen > consoleKept/2; { // the quick one keeps up
			c.mu.Lock()
			seen = int(whole.at)
			c.mu.Unlock()
		}
		_, _ = io.WriteString(c, line)
	}
	_ = c.Close()
	read.Wait()
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("a quick viewer got %d bytes of %d", got.Len(), want.Len())
	}
	rest, err := io.ReadAll(slow)
	missed := fmt.Sprintf("\r\n[%d bytes are left out here]\r\n", want.Len()-consoleKept)
	if err != nil || string(rest) != missed+want.String()[want.Len()-consoleKept:] {
		t.Errorf("a slow viewer got %d bytes, beginning with %.60q, %v", len(rest), rest, err)
	}
	if got := string(c.Lines(2)); got != "line 39998\nline 39999" {
		t.Errorf("last lines: %q", got)
	}
	if got := len(c.Lines(1 << 30)); got > consoleKept || got < consoleKept/2 {
		t.Errorf("all lines: %d bytes", got)
	}
	_, _ = c.Write(bytes.Repeat([]byte("y"), 3*consoleKept+7))
	if got := c.Lines(1); len(got) != consoleKept {
		t.Errorf("one long line: %d bytes", len(got))
	}
}

func TestConsoleViewClose(t *testing.T) {
	c := NewConsole()
	v := c.View()
	done := make(chan error)
	go func() {
		_, err := v.Read(make([]byte, 1))
		done <- err
	}()
	v.Close()
	if err := <-done; err != io.EOF {
		t.Errorf("Read: %v", err)
	}
}

func BenchmarkConsoleWrite(b *testing.B) {
	c := NewConsole()
	line := []byte(strings.Repeat("x", 80) + "\n")
	_, _ = c.Write(make([]byte, consoleKept))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Write(line)
	}
}

func TestLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	for i := range logsKept + 3 {
		c := NewConsole()
		l, err := NewLog(dir, fmt.Sprintf("vm%02d", i), c)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "log %d\n", i)
		_ = c.Close()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1000+int64(i), 0)
		if err := os.Chtimes(l.Path(), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if list := Logs(dir); len(list) != logsKept || list[0] != "vm34" || list[logsKept-1] != "vm03" {
		t.Errorf("%d logs: %v", len(list), list)
	}
	if id, err := FindLog(dir, ""); id != "vm34" || err != nil {
		t.Errorf("the last log: %q, %v", id, err)
	}
	var text bytes.Buffer
	if n, err := ReadLog(dir, "vm20", &text); err != nil || n != 7 || text.String() != "log 20\n" {
		t.Errorf("log: %q, %v", &text, err)
	}
	if _, err := ReadLog(dir, "vm00", io.Discard); err == nil {
		t.Error("a log that was removed can be read")
	}
	if _, err := ReadLog(dir, "../../etc/passwd", io.Discard); err == nil {
		t.Error("a path is taken for an ID")
	}
}

func TestLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := &Log{path: LogPath(dir, "big"), done: make(chan struct{})}
	if err := l.create(); err != nil {
		t.Fatal(err)
	}
	close(l.done)
	part := bytes.Repeat([]byte("0123456789abcde\n"), 4096)
	for range 100 {
		_, _ = l.Write(part)
	}
	_, _ = l.Write([]byte("the end\n"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := ReadLog(dir, "big", &text); err != nil {
		t.Fatal(err)
	}
	if n := text.Len(); n > 2*logPart || n < logPart || !bytes.HasSuffix(text.Bytes(), []byte("\nthe end\n")) {
		t.Errorf("%d bytes are kept, ending with %q", n, text.Bytes()[n-20:])
	}
}

func TestIDs(t *testing.T) {
	for _, id := range []string{"", ".", "..", "a/b", "a b", "-a", "é", "a.sock", strings.Repeat("a", maxID+1), "a\n"} {
		if CheckID(id) == nil {
			t.Errorf("%q is accepted", id)
		}
	}
	for range 100 {
		if id := NewID(); CheckID(id) != nil || len(id) != idSize {
			t.Errorf("made up %q", id)
		}
	}
}

// FuzzMessage reads any request.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"op":"info"}` + "\n"))
	f.Add([]byte(`{"op":"resize","disk":"a","size":512}` + "\n rest"))
	f.Add([]byte("[[[[\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		r := new(Request)
		if err := readMessage(in, r); err != nil {
			return
		}
		if end := bytes.IndexByte(b, '\n'); in.Len() != len(b)-end-1 {
			t.Errorf("%d bytes behind the line are left, not %d", in.Len(), len(b)-end-1)
		}
		_ = r.Validate()
	})
}
