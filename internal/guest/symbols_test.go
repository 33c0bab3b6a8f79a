package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/images/distro"
)

const someSymbols = `0000000000000000 A __per_cpu_start
ffffffff81000000 T _stext
ffffffff81000100 t spin
ffffffff81000180 d data
ffffffff81000200 W halt
not a line
`

func TestSymbols(t *testing.T) {
	tree := t.TempDir()
	path := filepath.Join(tree, systemMap)
	if err := os.WriteFile(path, []byte(someSymbols+strings.Repeat("ffffffff82000000 D x\n", 300)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*distro.Kernel{{Image: tree + "/bzImage"}, {Image: tree + "/arch/x86/boot/bzImage"}, {Image: "/x/vmlinuz", Modules: tree}} {
		if got := symbolsOf(k); got != path {
			t.Errorf("%+v: %q", k, got)
		}
	}
	for address, want := range map[string]string{
		"ffffffff81000100": "spin+0x0", "ffffffff810001ff": "spin+0xff", "ffffffff81000200": "halt+0x0", "ffffffff91000200": "", "0000000000000010": "",
	} {
		text := "vCPU 0, 64-bit mode: rip 0010:" + address + " rsp 0018:ffffc90000003f48 rflags 00000246"
		if want != "" {
			want = " (" + want + ")"
		}
		if got := withSymbols(path, text); got != strings.Replace(text, address, address+want, 1) {
			t.Errorf("%s", got)
		}
	}
	if self, err := os.Executable(); err != nil || symbolsOf(&distro.Kernel{Image: self}) != self {
		t.Errorf("an ELF file does not have its own symbols: %v", err)
	}
	if got := symbolsOf(&distro.Kernel{Image: "/x/vmlinuz"}); got != "" {
		t.Errorf("%q", got)
	}
}

func FuzzSymbols(f *testing.F) {
	f.Add(someSymbols, uint64(0xffffffff81000150))
	f.Fuzz(func(t *testing.T, text string, address uint64) {
		found := scanSymbols(strings.NewReader(text), address)
		if found.name != "" && found.begin > address {
			t.Errorf("%+v for %#x", found, address)
		}
	})
}
