package session

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// packed is an agent whose packer writes archive and ends with code.
func packed(t *testing.T, archive []byte, code int) *Session {
	t.Helper()
	stdout := make(chan *yamux.Stream, 1)
	return liar(t, func(stream *yamux.Stream, req *agentproto.Request) {
		switch {
		case req.Attach != nil && req.Attach.Stream == agentproto.Stdout:
			stdout <- stream
		case req.Exec != nil:
			reply(stream, agentproto.Reply{Started: &agentproto.Started{PID: 1}})
			out := <-stdout
			out.Write(archive)
			out.Close()
			reply(stream, agentproto.Reply{Exit: &agentproto.Exit{Code: code}})
		}
	})
}

func archive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(bytes.Repeat([]byte("x"), int(h.Size)))
	}
	w.Close()
	return b.Bytes()
}

func file(name string, size int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
}

func TestPullTree(t *testing.T) {
	to := filepath.Join(t.TempDir(), "new")
	s := packed(t, archive(t, file("a", 3), file("sub/b", 5)), 0)
	if err := s.PullTree(t.Context(), Tree{From: "/x", To: to}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(to, "sub", "b")); err != nil || string(text) != "xxxxx" {
		t.Errorf("%q, %v", text, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := packed(t, archive(t), 0).PullTree(t.Context(), Tree{From: "/x", To: empty}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(empty); err == nil {
		t.Error("a folder was made for nothing")
	}
}

// TestPullTreeLies: a guest writes nothing outside of the folder, and not without bound.
func TestPullTreeLies(t *testing.T) {
	long := archive(t, file("a", 1000))
	for name, test := range map[string]struct {
		archive []byte
		code    int
		want    string
	}{
		"above":      {archive(t, file("../escaped", 1)), 0, ""},
		"absolute":   {archive(t, file("/escaped", 1)), 0, "not the name"},
		"link":       {archive(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/"}), 0, "not the name"},
		"itself":     {archive(t, file(".", 1)), 0, ""},
		"too big":    {archive(t, file("a", 600), file("b", 600)), 0, "more than 1000 bytes"},
		"broken off": {long[:700], 0, ""},
		"garbage":    {[]byte(strings.Repeat("garbage", 200)), 0, ""},
		"failed":     {archive(t), 1, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := packed(t, test.archive, test.code).PullTree(t.Context(), Tree{From: "/x", To: filepath.Join(dir, "in"), Limit: 1000})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "escaped")); err == nil {
				t.Error("it escaped")
			}
		})
	}
}
