package images

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/stile-vmm/stile/images/kmod"
)

// fakeModuleFile makes an ELF file with a .modinfo section and nothing else.
func fakeModuleFile(depends string) []byte {
	info := "license=GPL\x00depends=" + depends + "\x00name=x\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	const header, section = 64, 64
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	put([]uint16{1, 62}) // ET_REL, EM_X86_64
	put(uint32(1))
	put([]uint64{0, 0, uint64(header + len(info) + len(names))})
	put(uint32(0))
	put([]uint16{header, 0, 0, section, 3, 2})
	b.WriteString(info + names)
	put(make([]byte, section))
	for _, s := range []struct {
		name, kind uint32
		off, size  int
	}{{1, 1, header, len(info)}, {10, 3, header + len(info), len(names)}} {
		put([]uint32{s.name, s.kind})
		put([]uint64{0, 0, uint64(s.off), uint64(s.size)})
		put([]uint32{0, 0})
		put([]uint64{1, 0})
	}
	return b.Bytes()
}

func packed(t *testing.T, ext string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	switch ext {
	case ".gz":
		w := gzip.NewWriter(&b)
		w.Write(content)
		w.Close()
	case ".zst":
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(content)
		w.Close()
	default:
		return content
	}
	return b.Bytes()
}

func names(modules []Module) (names []string) {
	for _, m := range modules {
		names = append(names, m.Name)
	}
	return names
}

func TestModuleClosure(t *testing.T) {
	withDep, without, damaged := t.TempDir(), t.TempDir(), t.TempDir()
	for path, depends := range map[string]string{
		"kernel/drivers/virtio/virtio.ko":         "virtio_ring",
		"kernel/drivers/virtio/virtio_ring.ko.gz": "",
		"kernel/net/9p/9pnet.ko":                  "",
		"kernel/net/9p/9pnet_virtio.ko.zst":       "9pnet,virtio,virtio-ring",
		"kernel/fs/circle-a.ko":                   "circle_b",
		"kernel/fs/circle-b.ko":                   "circle_a",
	} {
		content := packed(t, filepath.Ext(path), fakeModuleFile(depends))
		writeFile(t, filepath.Join(withDep, path), content)
		writeFile(t, filepath.Join(without, path), content)
	}
	builtin := []byte("kernel/drivers/char/virtio_console.ko\n")
	writeFile(t, filepath.Join(withDep, "modules.builtin"), builtin)
	writeFile(t, filepath.Join(without, "modules.builtin"), builtin)
	writeFile(t, filepath.Join(withDep, "modules.dep"), []byte(
		"kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko.gz\n"+
			"kernel/drivers/virtio/virtio_ring.ko.gz:\nkernel/net/9p/9pnet.ko:\n"+
			"kernel/net/9p/9pnet_virtio.ko.zst: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko.gz\n"+
			"kernel/fs/circle-a.ko: kernel/fs/circle-b.ko\nkernel/fs/circle-b.ko: kernel/fs/circle-a.ko\n"))
	writeFile(t, filepath.Join(damaged, "kernel/bad.ko"), []byte("no ELF file"))

	for name, dir := range map[string]string{"modules.dep": withDep, "modinfo": without} {
		t.Run(name, func(t *testing.T) {
			modules, missing, err := ModuleClosure(dir, []string{"9pnet-virtio", "virtio_console", "virtio", "circle_a", "nothing"})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"9pnet", "virtio_ring", "virtio", "9pnet_virtio", "circle_b", "circle_a"}
			if diff := cmp.Diff(want, names(modules)); diff != "" {
				t.Error(diff)
			}
			if !slices.Equal(missing, []string{"nothing"}) {
				t.Errorf("missing: %q", missing)
			}
			for _, m := range modules {
				if content, err := kmod.Read(m.Path); err != nil || !bytes.HasPrefix(content, []byte("\x7fELF")) {
					t.Errorf("%s: %v", m.Path, err)
				}
			}
		})
	}
	if _, _, err := ModuleClosure(damaged, []string{"bad"}); err == nil {
		t.Error("a module that is none was accepted")
	}
	if _, _, err := ModuleClosure("/no/such", nil); err == nil {
		t.Error("a folder that is not there was accepted")
	}
}

func TestModulesFor(t *testing.T) {
	dir := t.TempDir()
	kernel := writeFile(t, filepath.Join(dir, "boot", "vmlinuz-6.1.0-1-amd64"), nil)
	if got := ModulesFor(kernel); got != "" {
		t.Errorf("found %s", got)
	}
	want := filepath.Join(dir, "lib", "modules", "6.1.0-1-amd64")
	writeFile(t, filepath.Join(want, "modules.dep"), nil)
	if got := ModulesFor(kernel); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
	if got := ModulesFor(filepath.Join(dir, "vmlinuz")); got != "" {
		t.Errorf("found %s for a kernel without a release", got)
	}
	beside := writeFile(t, filepath.Join(want, "vmlinuz"), nil)
	if got := ModulesFor(beside); got != want {
		t.Errorf("found %q for a kernel among its modules, want %q", got, want)
	}
	for target, link := range map[string]string{kernel: "vmlinuz", beside: "sub/vmlinuz"} {
		link = filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got := ModulesFor(link); got != want {
			t.Errorf("found %q for a link to %s, want %q", got, target, want)
		}
	}
	usr := t.TempDir()
	want = filepath.Join(usr, "usr", "lib", "modules", "7.2")
	writeFile(t, filepath.Join(want, "modules.dep"), nil)
	if got := ModulesFor(writeFile(t, filepath.Join(usr, "boot", "vmlinuz-7.2"), nil)); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestLacksBuiltin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "7.2")
	writeFile(t, filepath.Join(dir, "kernel", "x.ko"), nil)
	if got := LacksBuiltin(dir); !strings.Contains(got, "linux-base-7.2") {
		t.Errorf("without modules.builtin: %q", got)
	}
	writeFile(t, filepath.Join(dir, "modules.builtin"), nil)
	if got := LacksBuiltin(dir); got != "" {
		t.Errorf("with it: %q", got)
	}
}

// A kernel that has everything built in comes without a folder of modules.
func TestKernelWithoutModules(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := ModuleClosure(dir, []string{"9p"}); err == nil {
		t.Error("an empty folder is a kernel's")
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte("kernel/fs/9p/9p.ko\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	modules, missing, err := ModuleClosure(dir, []string{"9p", "nvme"})
	if err != nil || len(modules) > 0 || !slices.Equal(missing, []string{"nvme"}) {
		t.Errorf("%v, missing %v, %v", modules, missing, err)
	}
}

func TestLooksLikeModules(t *testing.T) {
	for name, want := range map[string]bool{
		"work/kernel/main.c": false, "work/vmlinuz": false, "work/modules.order": true,
		"lib/modules/6.12/kernel/fs/9p.ko": true, "lib/modules/6.12/vmlinuz": false,
	} {
		top := t.TempDir()
		writeFile(t, filepath.Join(top, name), nil)
		dir := filepath.Join(top, "work")
		if strings.HasPrefix(name, "lib") {
			dir = filepath.Join(top, "lib/modules/6.12")
		}
		if got := looksLikeModules(dir); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
