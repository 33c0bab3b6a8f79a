package hostsock

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Serve(func(port uint32, conn *net.UnixConn, opened func(uint32) error) error {
		if port != 1234 {
			return errors.New("nobody listens")
		}
		if err := opened(77); err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}()
		return nil
	})
	for greeting, want := range map[string]string{
		"CONNECT 1234\nhello":                "OK 77\nhello",
		"connect 1234\n":                     "OK 77\n",
		"CONNECT 1235\nhello":                "",
		"CONNECT\n":                          "",
		"CONNECT -1\n":                       "",
		"CONNECT 4294967296\n":               "",
		"CONNECT 12 34\n":                    "",
		"GET / HTTP/1.1\r\n\r\n":             "",
		"\n":                                 "",
		"":                                   "",
		"CONNECT 000000000000000000001234\n": "",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, greeting) // may be refused half-way
		_ = conn.(*net.UnixConn).CloseWrite()
		if got, _ := io.ReadAll(conn); string(got) != want {
			t.Errorf("%q is answered by %q, want %q", greeting, got, want)
		}
		conn.Close()
	}
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := s.Close(); err != nil { // does not wait for the silent one
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Dial(80); err == nil {
		t.Error("connected with nobody")
	}
	l, err := net.Listen("unix", path+"_80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := s.Dial(80)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	s, err := Listen(path)
	if err != nil {
		t.Fatalf("in place of a socket that nobody listens on: %v", err)
	}
	defer s.Close()
	if _, err := Listen(path); err == nil {
		t.Error("a socket in use was replaced")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil {
		t.Error("a file was replaced")
	}
	if _, err := Listen("/" + strings.Repeat("x", 200)); err == nil {
		t.Error("a path that is too long for a socket is accepted")
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add("CONNECT 1234\nrest")
	f.Add("CONNECT 4294967295\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := strings.NewReader(text)
		if _, err := readGreeting(r); err == nil && r.Len() != len(text)-strings.IndexByte(text, '\n')-1 {
			t.Errorf("%q: %d bytes are left", text, r.Len())
		}
	})
}

// TestStrangers: neither is a socket used that another user has put there, nor a client served that another user runs.
func TestStrangers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := Bind(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	for _, c := range []*net.UnixConn{conn, peer} {
		if err := CheckPeer(c); err != nil {
			t.Error(err)
		}
		// Root is trusted by all.
		if err := checkPeer(c, os.Geteuid()+1); (err == nil) != (os.Geteuid() == 0) {
			t.Errorf("as another user: %v", err)
		}
	}
	if os.Geteuid() == 0 {
		testOtherUser(t)
	}
}

// testOtherUser has a process of another user listen.
func testOtherUser(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "stranger")
	program, err := os.ReadFile(os.Args[0]) // where it is, others don't get
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "program"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "program"), "-test.run=^TestListenAsStranger$")
	cmd.Env = append(os.Environ(), "STILE_TEST_STRANGER="+path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if conn, err := Dial(path); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "user 12345") {
		t.Errorf("connected to a stranger: %v, %v", conn, err)
	}
}

// TestListenAsStranger is the other user's process.
func TestListenAsStranger(t *testing.T) {
	path := os.Getenv("STILE_TEST_STRANGER")
	if path == "" {
		return
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Chmod(path, 0o777)
	os.Stdout.WriteString("!")
	for {
		if _, err := l.Accept(); err != nil {
			return
		}
	}
}
