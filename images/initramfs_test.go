package images

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/testenv"
)

// list reads an archive back: names with what they are.
func list(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(archive)), func(r cpio.Record) error {
		if _, ok := got[r.Name]; ok {
			t.Errorf("%s is there twice", r.Name)
		}
		if dir := filepath.Dir(r.Name); dir != "." && got[dir] != "folder" {
			t.Errorf("%s comes before its folder", r.Name)
		}
		switch r.Mode & cpio.S_IFMT {
		case cpio.S_IFDIR:
			got[r.Name] = "folder"
		case cpio.S_IFCHR:
			got[r.Name] = "device"
		default:
			content := make([]byte, r.FileSize)
			r.ReadAt(content, 0)
			got[r.Name] = string(content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	var userland bytes.Buffer
	w := cpio.Newc.Writer(&userland)
	for _, r := range []cpio.Record{
		cpio.Directory("bbin", 0o755), cpio.StaticFile("bbin/bb", "busybox", 0o755), cpio.StaticFile("init", "not this", 0o755),
	} {
		if err := w.WriteRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	cpio.WriteTrailer(w)
	spec := &Initramfs{
		Agent:    &Agent{Path: writeFile(t, filepath.Join(dir, "agent"), []byte("agent")), Libraries: []string{writeFile(t, filepath.Join(dir, "lib.so"), []byte("lib"))}},
		Modules:  []Module{{"virtio", writeFile(t, filepath.Join(dir, "virtio.ko"), []byte("ko"))}},
		Userland: writeFile(t, filepath.Join(dir, "u.cpio"), userland.Bytes()),
		Files:    []File{{Name: "/etc/deep/file", Mode: 0o600, Content: []byte("content")}},
	}
	var archive bytes.Buffer
	if err := spec.Write(&archive); err != nil {
		t.Fatal(err)
	}
	got := list(t, archive.Bytes())
	for name, content := range map[string]string{
		"init": "agent", "dev": "folder", "dev/console": "device", "dev/null": "device", "bbin/bb": "busybox", "etc/deep/file": "content",
		"lib/modules/virtio.ko": "ko", agent.ModulesList[1:]: "/lib/modules/virtio.ko\n", cpio.Normalize(filepath.Join(dir, "lib.so")): "lib",
	} {
		if got[name] != content {
			t.Errorf("%s is %q, want %q", name, got[name], content)
		}
	}
	var again bytes.Buffer
	if err := spec.Write(&again); err != nil || !bytes.Equal(again.Bytes(), archive.Bytes()) {
		t.Errorf("the second archive differs, %v", err)
	}
}

func TestInitramfsCached(t *testing.T) {
	c := openTest(t)
	program := filepath.Join(t.TempDir(), "agent")
	path := func(content string, files ...File) string {
		t.Helper()
		writeFile(t, program, []byte(content))
		path, err := c.Initramfs(t.Context(), &Initramfs{Agent: &Agent{Path: program}, Files: files})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := path("one")
	if path("one") != first {
		t.Error("the same input made another archive")
	}
	if path("other") == first || path("one", File{Name: "x", Mode: 0o644}) == first {
		t.Error("another input has the same archive")
	}
	archive, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, archive); got["init"] != "one" {
		t.Errorf("archive: %v", got)
	}
	if _, err := c.Initramfs(t.Context(), &Initramfs{Agent: &Agent{Path: "/no/such"}}); err == nil {
		t.Error("a missing agent was accepted")
	}
}

func TestParseLoaderList(t *testing.T) {
	got, err := parseLoaderList("\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n")
	if diff := cmp.Diff([]string{"/lib/libc.so.6"}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := parseLoaderList("libx.so => not found\n"); err == nil || !strings.Contains(err.Error(), "libx.so") {
		t.Errorf("a missing library: %v", err)
	}
}

// TestBuildAgent builds the agent on its own and asks it what it is.
func TestBuildAgent(t *testing.T) {
	if _, err := goTool(); err != nil {
		testenv.Missing(t, "go", err.Error())
	}
	c := openTest(t)
	a, err := c.Agent(t.Context(), AgentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := checkStatic(a.Path); err != nil {
		t.Error(err)
	}
	again, err := c.Agent(t.Context(), AgentOptions{})
	if err != nil || again.Path != a.Path {
		t.Errorf("the second time: %v, %v", again, err)
	}
}

// TestAgentBeside is about the agent that was installed beside stile: only the one that was built with it counts.
func TestAgentBeside(t *testing.T) {
	c := openTest(t)
	there, other, none := t.TempDir(), t.TempDir(), t.TempDir()
	content := []byte("an agent")
	for dir, text := range map[string][]byte{there: content, other: []byte("another")} {
		if err := os.WriteFile(filepath.Join(dir, "stile-agent"), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hash := fmt.Sprintf("%x", sha256.Sum256(content))
	if got := c.agentIn(t.Context(), hash, none, other, there); got != filepath.Join(there, "stile-agent") {
		t.Errorf("found %q", got)
	}
	if got := c.agentIn(t.Context(), hash, none, other); got != "" {
		t.Errorf("took %q, of another release", got)
	}
}

func TestAgentWithoutGoTool(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("GOROOT", "/no/such")
	if _, err := openTest(t).buildAgent(t.Context()); err == nil {
		testenv.Missing(t, "go-free host", "there is a Go tool where it is always looked for")
	}
	_, err := openTest(t).Agent(t.Context(), AgentOptions{})
	if err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("no remedy in %v", err)
	}
}
