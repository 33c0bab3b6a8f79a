package agentproto

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func frame(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteMessage(&b, MaxRequest, v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestMessages(t *testing.T) {
	req := Request{Exec: &Exec{
		ID: 7, Args: []string{"sh", "-c", "echo \"ü\n\""}, Env: []string{"A=b=c"}, Dir: "/tmp",
		User: &User{UID: 1, GID: 2, Groups: []uint32{3}}, Streams: []Stream{Stdin, Stderr},
	}}
	wire := append(frame(t, req), "raw bytes"...)
	r := bytes.NewReader(wire)
	got, err := ReadRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&req, got); diff != "" {
		t.Error(diff)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "raw bytes" {
		t.Errorf("after the message %q is left", rest)
	}
}

// TestMessagesOfBytes: no string of a request or a reply has to be text.
func TestMessagesOfBytes(t *testing.T) {
	const name = "a\xff\x80ü"
	for _, req := range []Request{
		{Exec: &Exec{Args: []string{name}, Env: []string{"A=" + name}, Dir: name}},
		{Setup: &Setup{
			Env: []string{name + "=" + name}, Modules: "/" + name, Program: "/" + name,
			Mounts: []Mount{{Kind: MountBind, Source: "/" + name, Target: "/" + name, Options: name}},
		}},
		{Push: &Push{Path: "/" + name}}, {Pull: &Pull{Path: "/" + name}}, {Dial: &Dial{Network: "unix", Address: "/" + name}},
	} {
		got, err := ReadRequest(bytes.NewReader(frame(t, req)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&req, got); diff != "" {
			t.Error(diff)
		}
	}
	_, err := ReadReply(bytes.NewReader(frame(t, Reply{Error: &Error{Kind: Failed, Message: name}})))
	if err == nil || err.Error() != name {
		t.Errorf("the error is %q", err)
	}
}

func TestReadMessageRefuses(t *testing.T) {
	valid := string(frame(t, Request{Power: &Power{}}))
	tests := []struct {
		name, wire string
		want       error // nil for any
	}{
		{"nothing", "", io.EOF},
		{"half a length", valid[:2], io.ErrUnexpectedEOF},
		{"half a message", valid[:len(valid)-1], io.ErrUnexpectedEOF},
		{"length only", "\x00\x10\x00\x00", io.ErrUnexpectedEOF},
		{"too long", "\xff\xff\xff\xff{}", nil},
		{"no JSON", "\x00\x00\x00\x01x", nil},
		{"empty", "\x00\x00\x00\x00", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ReadRequest(strings.NewReader(test.wire))
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestWriteMessageRefusesLong(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMessage(&b, 10, strings.Repeat("x", 11)); err == nil || b.Len() > 0 {
		t.Errorf("error %v, %d bytes written", err, b.Len())
	}
}

// TestLyingLength checks that a length costs no memory before the bytes come.
func TestLyingLength(t *testing.T) {
	wire := []byte("\x00\x7f\xff\xff{}")
	allocated := testing.AllocsPerRun(10, func() { ReadRequest(bytes.NewReader(wire)) })
	if allocated > 50 {
		t.Errorf("%v allocations", allocated)
	}
}

func TestRequestValidate(t *testing.T) {
	tests := []struct {
		name string
		req  Request
		ok   bool
	}{
		{"nothing", Request{}, false},
		{"two", Request{Power: &Power{}, Pull: &Pull{Path: "/x"}}, false},
		{"power", Request{Power: &Power{Reboot: true}}, true},
		{"exec", Request{Exec: &Exec{Args: []string{"x"}}}, true},
		{"exec without arguments", Request{Exec: &Exec{}}, false},
		{"exec with NUL", Request{Exec: &Exec{Args: []string{"a\x00"}}}, false},
		{"exec with a stream twice", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{Stdin, Stdin}}}, false},
		{"exec with an unknown stream", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{"log"}}}, false},
		{"exec with one output", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{Stdin, Output}}}, true},
		{"exec with one output and another", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{Output, Stderr}}}, false},
		{"dial", Request{Dial: &Dial{Network: "tcp", Address: "127.0.0.1:80"}}, true},
		{"dial nowhere", Request{Dial: &Dial{Network: "tcp"}}, false},
		{"dial by an unknown network", Request{Dial: &Dial{Network: "ip", Address: "127.0.0.1"}}, false},
		{"exec with a connection's stream", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{StreamDial}}}, false},
		{"terminal", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{StreamTTY}, TTY: &Winsize{}}}, true},
		{"terminal without stream", Request{Exec: &Exec{Args: []string{"x"}, TTY: &Winsize{}}}, false},
		{"terminal with stderr", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{StreamTTY, Stderr}, TTY: &Winsize{}}}, false},
		{"stream without terminal", Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{StreamTTY}}}, false},
		{"attach", Request{Attach: &Attach{ID: 1, Stream: Stdout}}, true},
		{"attach to nothing", Request{Attach: &Attach{ID: 1}}, false},
		{"push", Request{Push: &Push{Path: "/x", Size: 1}}, true},
		{"push of less than nothing", Request{Push: &Push{Path: "/x", Size: -1}}, false},
		{"push to a relative path", Request{Push: &Push{Path: "x"}}, false},
		{"setup", Request{Setup: &Setup{Root: Mount{Kind: Mount9P, Source: "root", Overlay: true}}}, true},
		{"setup without kind", Request{Setup: &Setup{Mounts: []Mount{{Target: "/x"}}}}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := test.req.Validate(); (err == nil) != test.ok {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

func TestReadReply(t *testing.T) {
	for _, bad := range []Reply{
		{Exit: &Exit{Code: 256}}, {Exit: &Exit{Code: -1}}, {Exit: &Exit{Signal: 65}}, {Exit: &Exit{Signal: -9}}, {File: &File{Size: -1}},
	} {
		if _, err := ReadReply(bytes.NewReader(frame(t, bad))); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
	long := &Error{Kind: NotFound, Message: strings.Repeat("x", 10000)}
	_, err := ReadReply(bytes.NewReader(frame(t, Reply{Error: long})))
	var refused *Error
	if !errors.As(err, &refused) || refused.ExitCode() != 127 || len(err.Error()) > maxText {
		t.Errorf("got %.40v", err)
	}
}

func TestReadHello(t *testing.T) {
	good := Hello{Version: Version, Kernel: "7.1.2", Phases: []Phase{{"init", 5}}}
	got, err := ReadHello(bytes.NewReader(frame(t, good)))
	if err != nil || !cmp.Equal(got, &good) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []Hello{
		{Version: Version + 1}, {}, {Version: Version, Phases: make([]Phase, maxPhases+1)}, {Version: Version, Kernel: strings.Repeat("x", maxText+1)},
	} {
		if _, err := ReadHello(bytes.NewReader(frame(t, bad))); err == nil {
			t.Errorf("accepted %.80v", bad)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add(frame(f, Request{Exec: &Exec{Args: []string{"x"}, Streams: []Stream{Stdin}}}))
	f.Add(frame(f, Request{Setup: &Setup{Root: Mount{Kind: Mount9P, Source: "r"}, Env: []string{"A=B"}}}))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		req, err := ReadRequest(bytes.NewReader(wire))
		if err != nil {
			return
		}
		again, err := ReadRequest(bytes.NewReader(frame(t, req)))
		if err != nil {
			t.Errorf("%+v is refused the second time: %v", req, err)
		}
		_ = again
		ReadControl(bytes.NewReader(wire))
	})
}

func FuzzReadReply(f *testing.F) {
	f.Add(frame(f, Reply{Exit: &Exit{Code: 3}}))
	f.Add(frame(f, Reply{Error: &Error{Kind: Failed, Message: "x"}}))
	f.Add(frame(f, Hello{Version: Version}))
	f.Fuzz(func(t *testing.T, wire []byte) {
		if reply, err := ReadReply(bytes.NewReader(wire)); err == nil && reply.Exit != nil {
			if reply.Exit.Code < 0 || reply.Exit.Code > 255 || reply.Exit.Signal < 0 || reply.Exit.Signal > 64 {
				t.Errorf("accepted %+v", reply.Exit)
			}
		}
		if hello, err := ReadHello(bytes.NewReader(wire)); err == nil && hello.Version != Version {
			t.Errorf("accepted %+v", hello)
		}
	})
}
