package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/kvm"
)

// TestSpeedIsRemembered measures once, and again when what was saved is damaged.
func TestSpeedIsRemembered(t *testing.T) {
	t.Setenv(images.EnvCache, t.TempDir())
	measured := 0
	want := kvm.Speed{NanosPerInstruction: 7}
	ask := func() {
		t.Helper()
		got, err := rememberSpeed(func() (kvm.Speed, error) { measured++; return want, nil })
		if err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	ask()
	ask()
	if measured != 1 {
		t.Errorf("measured %d times", measured)
	}
	saved, err := filepath.Glob(filepath.Join(os.Getenv(images.EnvCache), string(images.KindSpeed), "*"))
	if err != nil || len(saved) != 1 {
		t.Fatalf("saved %v, %v", saved, err)
	}
	for i, damage := range []func(string) error{
		func(path string) error { return os.Truncate(path, 3) },
		func(path string) error { return os.Truncate(path, 0) },
		func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		if err := damage(saved[0]); err != nil {
			t.Fatal(err)
		}
		ask()
		if measured != i+2 {
			t.Errorf("measured %d times after %d damages", measured, i+1)
		}
	}
	if key := speedKey("/"); key == "" || key != speedKey("/") {
		t.Errorf("this host's key is %q and %q", key, speedKey("/"))
	}
	failed := errors.New("no KVM")
	t.Setenv(images.EnvCache, t.TempDir())
	if _, err := rememberSpeed(func() (kvm.Speed, error) { return want, failed }); !errors.Is(err, failed) {
		t.Errorf("a failed measurement: %v", err)
	}
	ask()
}

// TestSpeedKey changes, one by one, what a speed depends on.
func TestSpeedKey(t *testing.T) {
	root := t.TempDir()
	if key := speedKey(root); key != "" {
		t.Errorf("a host without a boot has the key %s", key)
	}
	seen := make(map[string]string)
	for _, step := range []struct{ name, text string }{
		{"proc/sys/kernel/random/boot_id", "one\n"},
		{"proc/sys/kernel/random/boot_id", "two\n"},
		{"proc/cpuinfo", "processor\t: 0\nvendor_id\t: AuthenticAMD\n"},
		{"proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n"},
		{"sys/module/kvm/srcversion", "A\n"},
		{"sys/module/kvm/srcversion", "B\n"},
		{"sys/module/kvm_intel/parameters/ept", "Y\n"},
		{"sys/module/kvm_intel/parameters/ept", "N\n"},
	} {
		path := filepath.Join(root, step.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(step.text), 0o644)); err != nil {
			t.Fatal(err)
		}
		key := speedKey(root)
		if before, ok := seen[key]; ok {
			t.Errorf("%s %q has the key of %s", step.name, step.text, before)
		}
		seen[key] = step.name + " " + step.text
		if again := speedKey(root); again != key {
			t.Errorf("the same host has the keys %s and %s", key, again)
		}
	}
}
