package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/session"
)

func TestMaybeRunReturns(t *testing.T) {
	t.Setenv(EnvAgent, "1")
	MaybeRun() // not PID 1
}

func TestFindPort(t *testing.T) {
	dir := t.TempDir()
	if _, err := findPort(dir); err == nil {
		t.Error("found a port where there is none")
	}
	for name, content := range map[string]string{"vport0p1": "org.qemu.guest_agent.0\n", "vport2p3": agentproto.PortName + "\n", "vport0p0": ""} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if content == "" {
			continue // a port without a name
		}
		if err := os.WriteFile(filepath.Join(dir, name, "name"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if device, err := findPort(dir); err != nil || device != "/dev/vport2p3" {
		t.Errorf("findPort: %q, %v", device, err)
	}
}

// TestPortWaitsForHost checks that the end of file counts only once the host was heard.
func TestPortWaitsForHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path) // at its end, as a port without a host
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &port{File: f}
	read := make(chan string)
	go func() {
		buf := make([]byte, 10)
		n, _ := p.Read(buf)
		read <- string(buf[:n])
		_, err := p.Read(buf)
		read <- err.Error()
	}()
	if err := os.WriteFile(path, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "host" {
		t.Errorf("first read: %q", got)
	}
	if got := <-read; got != io.EOF.Error() {
		t.Errorf("second read: %q", got)
	}
}

// falls is a machine that kills its commands and takes its time to end, as one with file systems to write out.
type falls struct {
	plainProcess
	command chan int // its PID
}

func (f falls) powerDown(bool) {
	unix.Kill(<-f.command, unix.SIGKILL)
	time.Sleep(300 * time.Millisecond)
}

// What a reboot does to a command is not the command's end.
func TestCommandsOfAFallingMachine(t *testing.T) {
	here, there := net.Pipe()
	m := falls{command: make(chan int, 1)}
	ended := make(chan error, 1)
	go func() { ended <- serve(there, m, newChildren(), &agentproto.Hello{Version: agentproto.Version}) }()
	s, err := session.Dial(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err := s.Start(t.Context(), &session.Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	m.command <- p.PID()
	if err := s.Reboot(t.Context()); err != nil {
		t.Error(err)
	}
	if status, err := p.Wait(); !errors.Is(err, session.ErrAgentLost) {
		t.Errorf("the command ended: %+v, %v", status, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestStage0(t *testing.T) {
	binary := bytes.Repeat([]byte("binary "), 100000)
	path := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(binary)
	hash := hex.EncodeToString(sum[:])
	other := strings.Repeat("00", 32)

	seeds := map[agentproto.Seed]bool{{}: true}
	tests := []struct {
		name, self string
		run        bool
	}{
		{"another binary", other, true},
		{"the same binary", hash, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			host, guest := net.Pipe()
			defer host.Close()
			out := filepath.Join(t.TempDir(), "received")
			type result struct {
				run  bool
				seed agentproto.Seed
				err  error
			}
			results := make(chan result, 1)
			go func() {
				var r result
				r.run, r.err = receive(guest, test.self, out, func(s agentproto.Seed) error { r.seed = s; return nil })
				results <- r
			}()
			saved, err := session.AwaitLab(t.Context(), host)
			if err != nil || saved != test.self {
				t.Fatalf("AwaitLab: %q, %v", saved, err)
			}
			if err := session.ResumeLab(t.Context(), host, saved, path); err != nil {
				t.Fatal(err)
			}
			r := <-results
			if r.err != nil || r.run != test.run {
				t.Fatalf("receive: %v, %v", r.run, r.err)
			}
			if seeds[r.seed] {
				t.Errorf("the seed %x is not a fresh one", r.seed)
			}
			seeds[r.seed] = true
			if !test.run {
				return
			}
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, binary) {
				t.Errorf("%d bytes received, %v", len(got), err)
			}
			if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestStage0Refuses(t *testing.T) {
	self, other, seed := strings.Repeat("11", 32), strings.Repeat("22", 32), strings.Repeat("33", 32)
	taken := func(agentproto.Seed) error { return nil }
	for name, input := range map[string]string{
		"wrong sum":     "RUN " + other + " 5 0 " + seed + "\n12345",
		"too few bytes": "RUN " + other + " 5 0 " + seed + "\n123",
		"no binary":     "RUN " + other + " 0 0 " + seed + "\n",
		"no seed":       "RUN " + self + " 0 0\n",
		"garbage":       "GET / HTTP/1.1\n",
		"nothing":       "",
	} {
		t.Run(name, func(t *testing.T) {
			rw := struct {
				io.Reader
				io.Writer
			}{strings.NewReader(input), io.Discard}
			if run, err := receive(rw, self, filepath.Join(t.TempDir(), "x"), taken); err == nil || run {
				t.Errorf("receive: %v, %v", run, err)
			}
		})
	}
}

// TestStage0WithoutSeed: a machine that keeps its old random numbers doesn't go on.
func TestStage0WithoutSeed(t *testing.T) {
	self := strings.Repeat("11", 32)
	rw := struct {
		io.Reader
		io.Writer
	}{strings.NewReader(agentproto.RunLine{Hash: self}.String()), io.Discard}
	why := errors.New("no seed taken")
	if _, err := receive(rw, self, "", func(agentproto.Seed) error { return why }); !errors.Is(err, why) {
		t.Errorf("receive: %v, want %v", err, why)
	}
	if err := reseed(filepath.Join(t.TempDir(), "random"), agentproto.Seed{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reseed without a device: %v", err)
	}
	if err := reseed("/dev/null", agentproto.Seed{}); err == nil || !strings.Contains(err.Error(), "RNDADDENTROPY") {
		t.Errorf("reseed of another device: %v", err)
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=2"}, []string{"B=3", "C=4", "A=5", "A=6"})
	if strings.Join(got, " ") != "B=3 C=4 A=6" {
		t.Errorf("got %q", got)
	}
}

func TestArguments(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"bb", "dash"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"gosh": "bb", "sh": "gosh", "ash": "dash"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"sh": filepath.Join(dir, "sh"), "ash": "ash", "dash": "dash"} {
		if got := arguments(filepath.Join(dir, name), []string{name, "-c"}); got[0] != want || got[1] != "-c" {
			t.Errorf("arguments of %s: %q, want %q first", name, got, want)
		}
	}
}

// badHost is a host that speaks yamux and nothing sensible.
func badHost(t *testing.T) *yamux.Session {
	t.Helper()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(guest) }()
	mux, err := yamux.Client(host, agentproto.MuxConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mux.Close()
		<-served
	})
	if _, err := mux.AcceptStream(); err != nil {
		t.Fatal(err)
	}
	return mux
}

// TestBadHost checks that the agent refuses and goes on.
func TestBadHost(t *testing.T) {
	mux := badHost(t)
	for _, wire := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x02{}", "\x00\x00\x00\x04null", "\x00\x00\x00\x01["} {
		stream, err := mux.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(stream, wire)
		var refused *agentproto.Error
		if _, err := agentproto.ReadReply(stream); !errors.As(err, &refused) {
			t.Errorf("%q was answered with %v", wire, err)
		}
		stream.Close()
	}
	// Streams that nobody claims, and one twice.
	for range 3 {
		stream, err := mux.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		request := agentproto.Request{Attach: &agentproto.Attach{ID: 99, Stream: agentproto.Stdin}}
		if err := agentproto.WriteMessage(stream, agentproto.MaxRequest, request); err != nil {
			t.Error(err)
		}
	}
	stream, err := mux.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	agentproto.WriteMessage(stream, agentproto.MaxRequest, agentproto.Request{Exec: &agentproto.Exec{ID: 1, Args: []string{"true"}}})
	if reply, err := agentproto.ReadReply(stream); err != nil || reply.Started == nil {
		t.Errorf("afterwards: %+v, %v", reply, err)
	}
}
