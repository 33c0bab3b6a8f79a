package mountinfo

import (
	"slices"
	"strings"
	"testing"
)

const lines = `22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw
41 28 0:30 / /tmp/a\040b rw,relatime shared:5 master:1 - 9p hostrw0 rw,access=any,trans=virtio
42 28 8:1 / / rw,relatime - ext4 /dev/sda1 rw
44 28 0:31 / /x rw - tmpfs

43 -
`

func TestParse(t *testing.T) {
	want := []Mount{
		{"22", "0:21", "/sys", "sysfs", "sysfs"}, {"41", "0:30", `/tmp/a\040b`, "9p", "hostrw0"}, {"42", "8:1", "/", "ext4", "/dev/sda1"},
		{"44", "0:31", "/x", "tmpfs", ""},
	}
	got := Parse(lines)
	if !slices.Equal(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if path := got[1].Path(); path != "/tmp/a b" {
		t.Errorf("path %q", path)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(lines)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range Parse(text) {
			if m.Type == "" || strings.ContainsAny(m.Target, " \n") {
				t.Errorf("%+v", m)
			}
			_ = m.Path()
		}
	})
}
