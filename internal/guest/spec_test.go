package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/lab"
)

func TestValidateReportsEverything(t *testing.T) {
	s := Spec{Kernel: "/missing/kernel", Initramfs: []string{"/missing/initramfs"}, CPUs: 300, Root: "/missing/root", BootTimeout: -time.Second}
	err := s.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	for _, want := range []string{"/missing/kernel", "/missing/initramfs", "300 CPUs", "/missing/root", "boot timeout of -1s is negative"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v doesn't say %q", err, want)
		}
	}
	if err := (Spec{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}

func TestRootMustBeAFolderOrAnImage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Spec{Root: file}).Validate(); err == nil || !strings.Contains(err.Error(), "empty") { // a file is a disk image
		t.Errorf("%v", err)
	}
	if err := (Spec{Root: filepath.Dir(file)}).Validate(); err != nil {
		t.Errorf("a folder: %v", err)
	}
}

func TestAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	got, err := Spec{Kernel: "k", Initramfs: []string{"i", "/j"}, Root: "r"}.Absolute()
	if err != nil {
		t.Fatal(err)
	}
	if got.Kernel != dir+"/k" || got.Initramfs[0] != dir+"/i" || got.Initramfs[1] != "/j" || got.Root != dir+"/r" {
		t.Errorf("%+v", got)
	}
	if got, _ = (Spec{Root: RootURoot}).Absolute(); got.Root != RootURoot || got.Kernel != "" {
		t.Errorf("%+v", got)
	}
}

func TestCmdline(t *testing.T) {
	has := func(line, word string) bool {
		for w := range strings.FieldsSeq(line) {
			if w == word {
				return true
			}
		}
		return false
	}
	t.Setenv(EnvNested, "")
	line := Spec{Append: []string{"foo=bar", "x"}}.cmdline()
	if !strings.HasSuffix(line, " foo=bar x") || !has(line, "console=hvc0") || !has(line, "loglevel=3") || has(line, "noapic") {
		t.Errorf("the default kernel's: %q", line)
	}
	if line = (Spec{Kernel: "other", Verbose: true}).cmdline(); !has(line, "console=ttyS0") || has(line, "loglevel=3") {
		t.Errorf("another kernel's, verbose: %q", line)
	}
	t.Setenv(EnvNested, "1")
	if line = (Spec{}).cmdline(); !has(line, "noapic") || !has(line, "rodata=off") {
		t.Errorf("in the lab: %q", line)
	}
	if line = (Spec{Devices: []string{"0000:01:00.0"}}).cmdline(); has(line, "noapic") {
		t.Errorf("in the lab, with a device that may interrupt by a pin: %q", line)
	}
}

func TestConsoleCmdline(t *testing.T) {
	t.Setenv(EnvNested, "")
	if got := (Spec{Append: []string{"foo"}}).consoleCmdline(); got != "console=ttyS0 panic=-1 foo" {
		t.Errorf("%q", got)
	}
	t.Setenv(EnvNested, "1")
	if got := (Spec{Append: []string{"foo"}}).consoleCmdline(); !strings.Contains(got, " noapic ") || !strings.HasSuffix(got, " foo") {
		t.Errorf("in the lab: %q", got)
	}
	if strings.Contains(strings.Join(sparingWords, " "), "noapic") {
		t.Error("the shared words were changed")
	}
}

// A guest is only asked to power off where that matters.
func TestKeeps(t *testing.T) {
	for _, tt := range []struct {
		s    Spec
		want bool
	}{
		{Spec{}, false}, {Spec{Root: "/some"}, false}, {Spec{PowerOff: true}, true}, {Spec{Devices: []string{"0000:01:00.0"}}, true},
	} {
		if got := tt.s.keeps(); got != tt.want {
			t.Errorf("%+v: %v", tt.s, got)
		}
	}
}

func TestChoose(t *testing.T) {
	if place, _, err := Choose("host"); err != nil || place != OnHost {
		t.Errorf("host: %v, %v", place, err)
	}
	if place, _, err := Choose("lab"); err != nil || place != InLab {
		t.Errorf("lab: %v, %v", place, err)
	}
	if _, _, err := Choose("moon"); err == nil || !strings.Contains(err.Error(), "must be auto, host or lab") {
		t.Errorf("moon: %v", err)
	}
	t.Setenv(EnvNested, "1")
	if place, _, err := Choose("auto"); err != nil || place != OnHost {
		t.Errorf("auto in the lab: %v, %v", place, err)
	}
}

// An empty cache has no kernel for a lab with devices but what is named, and each fault says what to do.
func TestLabKernel(t *testing.T) {
	cache, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	devices := lab.Topologies()[1]
	for name, want := range map[string]string{
		LabKernelDefault: "has no VFIO",
		LabKernelBuilt:   "run `stile lab kernel build",
		LabKernelDebug:   "run `stile lab kernel build debug`",
		"./missing":      "missing",
	} {
		_, err := labKernel(t.Context(), cache, LabSpec{Kernel: name}, &devices, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("kernel %q: %v, want %q", name, err, want)
		}
	}
}

func TestCheckLabCache(t *testing.T) {
	for dir, want := range map[string]string{
		"/dev/shm/stile": "which has a /dev of its own: set STILE_CACHE to another folder", "/run/user/1000/stile": "a /run of its own", "/dev": "a /dev of its own",
		"/home/u/.cache/stile": "", "/tmp/stile": "", "/devel/stile": "", "/srv/run/stile": "",
	} {
		err := checkLabCache(dir)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}
