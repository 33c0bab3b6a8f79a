package agent

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeMounts are mounts of which some can't be unmounted, or only later.
type fakeMounts struct {
	mounted     []mount
	busy        map[string]int // how often an unmount fails
	writers     map[string]bool
	disk        bool // another namespace has something mounted
	said        []string
	emergencies int
}

func (f *fakeMounts) list() []mount { return slices.Clone(f.mounted) }

func (f *fakeMounts) unmount(point string) error {
	at := slices.IndexFunc(f.mounted, func(m mount) bool { return m.point == point })
	within := slices.ContainsFunc(f.mounted, func(m mount) bool { return len(m.point) > len(point) && m.point[:len(point)+1] == point+"/" })
	if f.busy[point] > 0 || within {
		f.busy[point]--
		return unix.EBUSY
	}
	f.mounted = slices.Delete(f.mounted, at, at+1)
	f.said = append(f.said, point)
	return nil
}

func (f *fakeMounts) makeReadOnly(point string) error {
	if f.writers[point] {
		return unix.EBUSY
	}
	f.said = append(f.said, "ro "+point)
	return nil
}

func (f *fakeMounts) held() bool {
	return f.disk || slices.ContainsFunc(f.mounted, func(m mount) bool { return m.fstype == "ext4" && f.writers[m.point] })
}

func (f *fakeMounts) emergency() { f.emergencies++ }

// TestLetGo: what a command has left mounted is unmounted before the machine ends, the innermost first; what stays busy is made read-only.
func TestLetGo(t *testing.T) {
	const lines = `20 1 0:20 / / rw - overlay overlay rw
21 20 0:21 / /proc rw - proc proc rw
22 20 0:22 / /run rw - tmpfs tmpfs rw
23 20 254:0 / /mnt rw,relatime shared:1 - ext4 /dev/vda rw
24 23 0:24 / /mnt/t rw - tmpfs tmpfs rw
25 20 0:25 / /srv/a\040b rw - 9p share rw
26 22 254:16 / /run/x rw - xfs /dev/vdb rw
damaged line
`
	for name, c := range map[string]struct {
		f           fakeMounts
		want        []string
		emergencies int
	}{
		"free":         {fakeMounts{}, []string{"/run/x", "/srv/a b", "/mnt/t", "/mnt", "ro /"}, 0},
		"for a moment": {fakeMounts{busy: map[string]int{"/run/x": 1}}, []string{"/srv/a b", "/run/x", "/mnt/t", "/mnt", "ro /"}, 0},
		"for good":     {fakeMounts{busy: map[string]int{"/srv/a b": 1 << 20}}, []string{"/run/x", "/mnt/t", "/mnt", "ro /srv/a b", "ro /"}, 0},
		"open files":   {fakeMounts{busy: map[string]int{"/mnt": 1 << 20}, writers: map[string]bool{"/mnt": true}}, []string{"/run/x", "/srv/a b", "/mnt/t", "ro /"}, 1},
		"elsewhere":    {fakeMounts{disk: true}, []string{"/run/x", "/srv/a b", "/mnt/t", "/mnt", "ro /"}, 1},
	} {
		f := c.f
		f.mounted = parseMounts(lines)
		if f.busy == nil {
			f.busy = make(map[string]int)
		}
		letGo(&f, time.Now().Add(100*time.Millisecond))
		if !slices.Equal(f.said, c.want) || f.emergencies != c.emergencies {
			t.Errorf("%s: %q, %d emergencies", name, f.said, f.emergencies)
		}
	}
}

// TestAlive: this process lives; a kernel thread and a zombie hold nothing.
func TestAlive(t *testing.T) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		string(own):                             true,
		"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0": false,
		"7 (a) b) Z 1 7 7 0 -1 4227148 0 0":     false,
		"7 (a) R 1) D 1 7 7 0 -1 4194304 0 0":   true,
		"":                                      false, ")": false, "1 (x) R 1": false,
	} {
		if got := alive([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzMounts(f *testing.F) {
	f.Add("23 20 254:0 / /mnt rw shared:1 - ext4 /dev/vda rw\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMounts(text) {
			_ = fmt.Sprint(m.stays(), m.pseudo())
		}
		alive([]byte(text))
	})
}
