package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/layout"
)

func TestPlace(t *testing.T) {
	const mib = layout.MiB
	tests := []struct {
		name              string
		size, bottom, top uint64
		last              uint32
		want              uint64
		ok                bool
	}{
		{"high", 1, mib, 2 * mib, 0x7fffffff, 2*mib - 4096, true},
		{"whole pages", 4096, mib, 2 * mib, 0x7fffffff, 2*mib - 4096, true},
		{"exact", mib, mib, 2 * mib, 0x7fffffff, mib, true},
		{"one more", mib + 1, mib, 2 * mib, 0x7fffffff, 0, false},
		{"below the kernel's limit", 4096, mib, 3 << 30, 0x7fffffff, 0x80000000 - 4096, true},
		{"limit of all ones", 4096, mib, 3 << 30, 0xffffffff, 3<<30 - 4096, true},
		{"limit below the kernel", 4096, mib, 2 * mib, 0xfffff, 0, false},
		{"larger than all", 1 << 62, mib, 2 * mib, 0x7fffffff, 0, false},
	}
	for _, tt := range tests {
		got, ok := place(tt.size, tt.bottom, tt.top, tt.last)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: %#x, %v, want %#x, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestInitrdSize(t *testing.T) {
	part := func(n int64) *Initrd { return &Initrd{Name: "i", Size: n} }
	if got, err := initrdSize([]*Initrd{part(5), part(4), part(1)}); got != 13 || err != nil {
		t.Errorf("5, 4 and 1 bytes take %d, %v", got, err)
	}
	for _, parts := range [][]*Initrd{{part(0)}, {part(-1)}, {part(1 << 62), part(1 << 62)}} {
		if _, err := initrdSize(parts); err == nil {
			t.Errorf("%d parts, the last of %d bytes: no error", len(parts), parts[len(parts)-1].Size)
		}
	}
}

func TestOpenInitrd(t *testing.T) {
	dir := t.TempDir()
	tests := []struct{ name, content, want string }{
		{"cpio", "070701rest", ""},
		{"short", "x", ""},
		{"empty", "", "is empty"},
		{"vmlinux", string(smallELF().bytes()), "the kernel with -k"},
		{"vmlinuz", string(smallBzImage(nil).bytes()), "the kernel with -k"},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, tt.name)
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := OpenInitrd(path)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "initramfs "+path) {
				t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.want)
			}
			continue
		}
		if err != nil || i.Size != int64(len(tt.content)) {
			t.Errorf("%s: %+v, %v", tt.name, i, err)
			continue
		}
		if err := i.Close(); err != nil {
			t.Errorf("%s: closing: %v", tt.name, err)
		}
		if err := i.Close(); err != nil {
			t.Errorf("%s: closing again: %v", tt.name, err)
		}
	}
	if _, err := OpenInitrd(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "check the path") {
		t.Errorf("missing file: %v", err)
	}
}
