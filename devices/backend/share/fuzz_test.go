package share

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fuzzTree makes a small tree with all that is special, and beside it what must not be reached.
func fuzzTree(t testing.TB) (dir, outside string) {
	top := t.TempDir()
	dir, outside = top+"/share", top+"/outside"
	for _, d := range []string{dir + "/d/e", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir+"/f", "content")
	put(t, dir+"/d/g", "")
	put(t, outside+"/secret", "secret")
	for name, target := range map[string]string{"l": "../outside", "d/up": "../..", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir+"/p", 0o666); err != nil {
		t.Fatal(err)
	}
	return dir, outside
}

// FuzzSession sends any bytes as messages to a session: a byte for the room of the response,
// two for the length of the message, the message. The session must survive, keep to its limits,
// leave no descriptor behind, and change nothing outside the folder. With TMPDIR on a tmpfs it
// runs many times faster.
func FuzzSession(f *testing.F) {
	var all []byte
	add := func(msgs ...[]byte) {
		var in []byte
		for _, m := range msgs {
			in = append(in, 255)
			in = binary.LittleEndian.AppendUint16(in, uint16(len(m)))
			in = append(in, m...)
		}
		f.Add(true, in)
		f.Add(false, in)
		all = append(all, in...)
	}
	walkF := message(twalk, 1, uint32(0), uint32(1), uint16(1), "f")
	for _, m := range changes() {
		add(walkF, m)
	}
	add(walkF, message(tlopen, 1, uint32(1), uint32(unix.O_RDWR)), message(tread, 1, uint32(1), uint64(0), uint32(9)),
		message(twrite, 1, uint32(1), uint64(3), uint32(2), []byte("xy")), message(tlock, 1, uint32(1), uint8(1), uint32(0), uint64(0), uint64(0), uint32(0), ""),
		message(tgetlock, 1, uint32(1), uint8(1), uint64(0), uint64(0), uint32(0), ""), message(tfsync, 1, uint32(1), uint32(0)))
	add(message(twalk, 1, uint32(0), uint32(2), uint16(2), "d", "up"), message(treadlink, 1, uint32(2)), message(tremove, 1, uint32(2)))
	add(message(twalk, 1, uint32(0), uint32(2), uint16(0)), message(tlopen, 1, uint32(2), uint32(0)), message(treaddir, 1, uint32(2), uint64(0), uint32(4000)))
	add(walkF, message(txattrwalk, 1, uint32(1), uint32(3), "user.x"), message(txattrwalk, 1, uint32(1), uint32(3), ""), message(tclunk, 1, uint32(3)))
	add(message(tflush, 1, uint16(1)), message(tstatfs, 1, uint32(0)), message(tgetattr, 1, uint32(0), uint64(0)), message(tversion, 1, uint32(9000), "9P2000.L"))
	add(message(twalk, 1, uint32(0), uint32(4), uint16(1), "p"), message(tlopen, 1, uint32(4), uint32(0)))
	node := message(tmknod, 1, uint32(0), "n", uint32(unix.S_IFCHR|0o666), uint32(1), uint32(3), uint32(0))
	walkN := message(twalk, 1, uint32(0), uint32(5), uint16(1), "n")
	add(node, walkN, message(tgetattr, 1, uint32(5), uint64(0)), message(tlopen, 1, uint32(5), uint32(unix.O_RDWR)),
		message(trenameat, 1, uint32(0), "n", uint32(0), "f"), node, message(tunlinkat, 1, uint32(0), "n", uint32(0)), walkN)
	f.Add(false, all)
	f.Fuzz(fuzzSession)
}

func fuzzSession(t *testing.T, readOnly bool, in []byte) {
	dir, outside := fuzzTree(t)
	limits := Limits{Nodes: 10, Handles: 2, Open: 3}
	g := newGuest(t, Config{Path: dir, ReadOnly: readOnly, Limits: limits})
	for n := 0; len(in) > 3 && n < 50; n++ {
		room := int(in[0]) * 64
		size := min(int(binary.LittleEndian.Uint16(in[1:])), len(in)-3)
		g.call.In, g.call.Out = [][]byte{in[3 : 3+size]}, [][]byte{g.resp[:room]}
		in = in[3+size:]
		g.Begin(&g.call)
		if n := g.answer(&g.call); n > room || n != 0 && n != int(binary.LittleEndian.Uint32(g.resp)) {
			t.Fatalf("response of %d bytes in %d: % x", n, room, g.resp[:min(n, room, 100)])
		}
		g.Finish(&g.call)
		if g.nodes > limits.Nodes || g.handles > limits.Handles+limits.Open || g.opens > limits.Open || g.xattrs > maxXattrs || len(g.fids) > limits.Nodes ||
			g.share.owners.standIns.n.Load() > int64(limits.Nodes) {
			t.Fatalf("%d nodes, %d handles, %d open files, %d bytes of attributes, %d fids", g.nodes, g.handles, g.opens, g.xattrs, len(g.fids))
		}
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Fatalf("outside the folder: %v, %v", entries, err)
	}
	if b, err := os.ReadFile(outside + "/secret"); err != nil || string(b) != "secret" {
		t.Fatalf("outside the folder: %q, %v", b, err)
	}
	above, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(above) != 2 {
		t.Fatalf("above the folder: %v, %v", above, err)
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeDevice != 0 {
			t.Fatalf("a device on the host: %s", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if readOnly {
		if b, err := os.ReadFile(dir + "/f"); err != nil || string(b) != "content" {
			t.Fatalf("in the read-only folder: %q, %v", b, err)
		}
	}
}
