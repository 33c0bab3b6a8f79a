package guest

import (
	"strings"
	"testing"

	"github.com/stile-vmm/stile/devices/backend/disk"
	"github.com/stile-vmm/stile/vmm"
)

// The nested host has no devices of this one.
func TestLabHasNoDevices(t *testing.T) {
	s := Spec{Disks: []vmm.Disk{{Options: disk.Options{Path: "/dev/null", COW: true}}}}
	if _, _, err := s.lockDisks(); err == nil || !strings.Contains(err.Error(), "disk /dev/null: a guest in the lab can't have a device of this host") {
		t.Errorf("%v", err)
	}
}

func TestParseDisk(t *testing.T) {
	for text, want := range map[string]vmm.Disk{
		"a.img":                        {Options: disk.Options{Path: "a.img"}},
		"a,,b=c,ro":                    {Options: disk.Options{Path: "a,b=c", ReadOnly: true}},
		"/x,cow,serial=s,format=qcow2": {Options: disk.Options{Path: "/x", COW: true, Format: disk.QCOW2}, Serial: "s"},
		"/x,cow,backing=/y,,z":         {Options: disk.Options{Path: "/x", COW: true, Backing: "/y,z"}},
		"/x,direct,serial=a,,b=c":      {Options: disk.Options{Path: "/x", Direct: true}, Serial: "a,b=c"},
	} {
		got, err := ParseDisk(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
			continue
		}
		if again, err := ParseDisk(DiskText(got)); err != nil || again != got {
			t.Errorf("%q: as text %q, which is %+v, %v", text, DiskText(got), again, err)
		}
	}
	for text, faults := range map[string][]string{
		"":                  {"must be PATH"},
		",ro":               {"must be PATH"},
		"a,ro=no":           {`option "ro=no" is unknown`},
		"a,cow=off,serial=": {`option "cow=off" is unknown`, `option "serial=" is unknown`},
		"a,rw,":             {`option "rw" is unknown; there are ro, cow, direct, serial=, format= and backing=`, `option "" is unknown`},
	} {
		_, err := ParseDisk(text)
		for _, want := range faults {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, without %q", text, err, want)
			}
		}
	}
}
