package kreport

import (
	"strings"
	"testing"
)

func record(t *testing.T, m *Merged, line string) (Report, bool, string) {
	t.Helper()
	r, ok := ParseRecord([]byte(line))
	if !ok {
		t.Fatalf("%q is not read", line)
	}
	report, begins, fresh := m.Record(r)
	return report, begins, string(fresh)
}

func TestParseRecord(t *testing.T) {
	r, ok := ParseRecord([]byte(`12,339,5140900,-,caller=T1;a\x0ab\x1b[0m;c\\xzz` + "\n"))
	if !ok || r.Level != 4 || r.Facility != 1 || r.Seq != 339 || r.Micros != 5140900 || string(r.Text) != "a\nb\x1b[0m;c\\\\xzz" {
		t.Errorf("%+v, %v", r, ok)
	}
	for _, line := range []string{"", " SUBSYSTEM=pci", "6,1;x", "6,a,1,-;x", "-6,1,1,-;x", "6,1,1,-", "6,1,99999999999999999999,-;x"} {
		if r, ok := ParseRecord([]byte(line)); ok {
			t.Errorf("%q is read as %+v", line, r)
		}
	}
}

// TestMerged: each line counts once, whichever way it comes first.
func TestMerged(t *testing.T) {
	m := NewMerged(true)
	if _, _, fresh := record(t, m, "6,1,1000001,-;eth0: link up"); fresh != "[    1.000001] eth0: link up\n" {
		t.Errorf("what a quiet console leaves out is %q", fresh)
	}
	m.Console([]byte("[    2.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1\r"))
	if r, begins, fresh := record(t, m, "4,2,2000000,-;WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1"); begins || fresh != "" {
		t.Errorf("what the console had is %+v, %q", r, fresh)
	}
	if r, begins, _ := record(t, m, "3,3,500000,-;BUG: KASAN: use-after-free in f"); !begins || r.Kind != KASAN || r.Time != 0.5 {
		t.Errorf("of the boot: %+v, %v", r, begins)
	}
	if _, begins := m.Console([]byte("[    0.500000] BUG: KASAN: use-after-free in f")); begins {
		t.Error("a panic's replay of the log counts again")
	}
	if r, begins, fresh := record(t, m, "12,4,3000000,-;BUG: KASAN: says a program"); begins || !strings.Contains(fresh, "says a program") {
		t.Errorf("of a program: %+v, %q", r, fresh)
	}
	if r, begins, _ := record(t, m, "6,5,4000000,-;kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"); !begins || r.Kind != Kmemleak {
		t.Errorf("of kmemleak: %+v", r)
	}
	reports := m.Reports()
	if len(reports) != 3 || reports[0].Kind != KASAN || reports[1].Kind != Warning || m.Count(KASAN) != 1 || m.Dropped() != 0 {
		t.Errorf("%+v", reports)
	}
	if r, ok := m.Find(Kmemleak); !ok || r.Time != 4 {
		t.Errorf("%+v", r)
	}
}

func TestSeenIsBounded(t *testing.T) {
	var k keys
	for i := range uint64(3 * keysKept) {
		if !k.add(i, []byte("x")) || len(k.known) > keysKept {
			t.Fatalf("line %d: %d are known", i, len(k.known))
		}
	}
	if k.add(3*keysKept-1, []byte("x ")) || !k.add(0, []byte("x")) {
		t.Error("the wrong ones are known")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("6,339,5140900,-,caller=T1;BUG: KASAN: a\\x0ab"), []byte("[    5.140900] BUG: KASAN: a"))
	f.Fuzz(func(t *testing.T, line, console []byte) {
		m := NewMerged(false)
		m.Console(console)
		if r, ok := ParseRecord(line); ok {
			m.Record(r)
			if _, begins, fresh := m.Record(r); begins || len(fresh) > 0 {
				t.Errorf("%q counts twice", line)
			}
		}
	})
}
