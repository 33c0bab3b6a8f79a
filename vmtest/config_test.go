package vmtest

import (
	"reflect"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
)

// TestConfig: no field is without an effect.
func TestConfig(t *testing.T) {
	full := Config{
		Kernel: "6.12", Modules: "/m", Append: []string{"a"}, CPUs: 2, Memory: 1 << 30, Root: "none", Folders: []Folder{{Host: "/h"}},
		Disks: []Disk{{}}, Net: []string{"user"}, Vsock: new(Vsock), Balloon: true, Timeout: time.Second, PowerOff: true,
		Devices: []string{"01:00.0"}, OnOops: "warn", Topology: "all", LabKernel: "built",
	}
	type made struct {
		Spec guest.Spec
		Lab  guest.LabSpec
	}
	without := made{Config{}.spec(), Config{}.lab()}
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		var c Config
		value := reflect.ValueOf(full).Field(i)
		if value.IsZero() {
			t.Errorf("%s: this test has no value for it", fields.Field(i).Name)
		}
		reflect.ValueOf(&c).Elem().Field(i).Set(value)
		if reflect.DeepEqual(made{c.spec(), c.lab()}, without) {
			t.Errorf("%s changes nothing", fields.Field(i).Name)
		}
	}
}

// TestFolderMode: a folder without a mode is copied on write, and the caller's slice stays as it was.
func TestFolderMode(t *testing.T) {
	c := Config{Folders: []Folder{{Host: t.TempDir()}, {Host: t.TempDir(), Mode: "rw"}}}
	spec := c.spec()
	if err := spec.Validate(); err != nil {
		t.Error(err)
	}
	if got := spec.Folders; got[0].Mode != "cow" || got[1].Mode != "rw" || c.Folders[0].Mode != "" {
		t.Errorf("%v of %v", got, c.Folders)
	}
}

func TestLabDevice(t *testing.T) {
	for kind := range kinds {
		address, err := labDevice(kind)
		if err != nil || address == "" {
			t.Errorf("%s: %q, %v: the lab has none that is alone in its group", kind, address, err)
		}
	}
	if address, err := labDevice("gpu"); address != "" || err != nil {
		t.Errorf("what there is none of: %q, %v", address, err)
	}
}
