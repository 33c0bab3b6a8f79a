package kreport

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// lines gives text the times that a kernel prints, a microsecond apart.
func lines(text string) []string {
	var out []string
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		out = append(out, fmt.Sprintf("[    7.%06d] %s", i, line))
	}
	return out
}

func logOf(text string) *Log {
	l := NewLog(true)
	for _, line := range lines(text) {
		l.Console([]byte(line))
	}
	return l
}

// TestKinds has the first lines that Linux prints, of several versions.
func TestKinds(t *testing.T) {
	for line, want := range map[string]Kind{
		"Kernel panic - not syncing: VFS: Unable to mount root fs":                                           Panic,
		"---[ end Kernel panic - not syncing: Fatal exception ]---":                                          "",
		"watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:1]":                                           Lockup,
		"NMI watchdog: Watchdog detected hard LOCKUP on cpu 1":                                               Lockup,
		"watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3":                                             Lockup,
		"BUG: unable to handle page fault for address: 0000000000000010":                                     Oops,
		"BUG: kernel NULL pointer dereference, address: 0000000000000000":                                    Oops,
		"BUG: stack guard page was hit at 00000000a9a6f2ad (stack is 0000000000000000..00000000f)":           Oops,
		"BUG: TASK stack guard page was hit at ffffc90000a97ff8 (stack is ffffc90000a98000..ffffc90000a9c)":  Oops,
		"Oops: 0000 [#1] PREEMPT SMP":                                                                        Oops,
		"Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI":                                                            Oops,
		"divide error: 0000 [#1] SMP PTI":                                                                    Oops,
		"general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP PTI": Oops,
		"kernel BUG at mm/slub.c:1!":                                                                         Oops,
		"BUG: KASAN: slab-out-of-bounds in kmalloc_oob_right+0xa8/0xbc [kasan_test]":                         KASAN,
		"BUG: KCSAN: data-race in test_kernel_read / test_kernel_write":                                      KCSAN,
		"BUG: KMSAN: uninit-value in test_uninit_kmsan_check_memory+0x1be/0x380 [kmsan_test]":                KMSAN,
		"BUG: KFENCE: out-of-bounds read in test_out_of_bounds_read+0xa6/0x234":                              KFENCE,
		"UBSAN: array-index-out-of-bounds in drivers/a.c:12:3":                                               UBSAN,
		"BUG: scheduling while atomic: insmod/123/0x00000002":                                                Atomic,
		"BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580":                   Atomic,
		"WARNING: possible circular locking dependency detected":                                             Lockdep,
		"WARNING: possible recursive locking detected":                                                       Lockdep,
		"WARNING: suspicious RCU usage":                                                                      Lockdep,
		"WARNING: inconsistent lock state":                                                                   Lockdep,
		"WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected":                                        Lockdep,
		"[ BUG: Invalid wait context ]":                                                                      Lockdep,
		"INFO: trying to register non-static key.":                                                           Lockdep,
		"WARNING: CPU: 1 PID: 95 at kernel/a.c:7 f+0x5/0x10 [m]":                                             Warning,
		"WARNING: kernel/a.c:7 at f+0x5/0x10, CPU#1: insmod/95":                                              Warning, // since 6.19
		"INFO: task kworker/0:1:23 blocked for more than 120 seconds.":                                       HungTask,
		"INFO: task a:23 blocked in I/O wait for more than 122 seconds.":                                     HungTask,
		"rcu: INFO: rcu_preempt self-detected stall on CPU":                                                  RCUStall,
		"rcu: INFO: rcu_sched detected stalls on CPUs/tasks:":                                                RCUStall,
		"rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-.... } 6 jiffies s: 53":         RCUStall,
		"kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)":                            Kmemleak,
		"kmemleak: Kernel memory leak detector initialized (mem pool available: 15863)":                      "",
		"BUG: Bad page state in process insmod  pfn:12345":                                                   Bug,
		"BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 35s!":                         Bug,
		"BUG kmalloc-64 (Not tainted): Right Redzone overwritten":                                            Bug,
		"Out of memory: Killed process 61 (tail) total-vm:117224kB":                                          OutOfMemory,
		"Memory cgroup out of memory: Killed process 61 (tail)":                                              "",
		"traps: a[7] general protection fault ip:401136 sp:7ffc error:0 in a[401000+1000]":                   "",
		"a[7]: segfault at 0 ip 0000000000401136 sp 00007ffc error 4 in a[401000+1000]":                      "",
		"systemd[1]: BUG: KASAN: said a program":                                                             "",
		"WARNING: this system is old":                                                                        "",
		"nothing to see":                                                                                     "",
	} {
		for _, caller := range []string{"", "[  T123] ", "[    C0] "} {
			l := NewLog(true)
			r, begins := l.Console([]byte("[   12.345678] " + caller + line + "\r"))
			if r.Kind != want || begins != (want != "") || begins && r.Time != 12.345678 {
				t.Errorf("%q: %+v, want kind %q at 12.345678", caller+line, r, want)
			}
		}
	}
}

// TestWhoseLines: what a program prints on a console is not a report.
func TestWhoseLines(t *testing.T) {
	const said = "BUG: KASAN: use-after-free in f+0x1/0x2"
	for _, test := range []struct {
		timed bool
		lines []string
		want  int
	}{
		{false, []string{said}, 1},
		{false, []string{"[    T1] " + said}, 1},
		{false, []string{"[1] Kernel panic - not syncing: x", "---[ end Kernel panic - not syncing: x ]---"}, 1},
		{true, []string{said}, 0},
		{false, []string{"[    0.000000] Linux", said}, 0},
		{true, []string{"[    1.000000] " + said}, 1},
		{true, []string{"[    1.000000] say: " + said}, 0},
		{true, []string{"host login: [    1.000000] " + said}, 1}, // behind a prompt
		{true, []string{"[ 1.0] [x.000001] [1.00000x] [] [1.123456" + said}, 0},
	} {
		l := NewLog(test.timed)
		for _, line := range test.lines {
			l.Console([]byte(line))
		}
		if got := len(l.Reports()); got != test.want {
			t.Errorf("%q: %d reports, want %d", test.lines, got, test.want)
		}
	}
}

const oops61 = `BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
PGD 0 P4D 0
Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 72 Comm: insmod Tainted: G           OE      6.1.0
RIP: 0010:oops_init+0x5/0x10 [faults]
---[ end trace 0000000000000000 ]---
note: insmod[72] exited with irqs disabled
`

func TestReports(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []Report // lines are the first ones that must be there
	}{
		{"oops", oops61, []Report{{Oops, 7, "BUG: kernel NULL pointer dereference, address: 0000000000000000", []string{
			"#PF: supervisor write access in kernel mode", "#PF: error_code(0x0002) - not-present page", "PGD 0 P4D 0", "Oops: 0002 [#1] PREEMPT SMP NOPTI",
			"CPU: 0 PID: 72 Comm: insmod Tainted: G           OE      6.1.0", "RIP: 0010:oops_init+0x5/0x10 [faults]",
		}}}},
		{"two of them", oops61 + oops61, []Report{{Kind: Oops}, {Kind: Oops}}},
		{"BUG()", "------------[ cut here ]------------\nkernel BUG at a.c:7!\ninvalid opcode: 0000 [#1] SMP\nCPU: 0\n", []Report{{Oops, 7.000001, "kernel BUG at a.c:7!", []string{
			"invalid opcode: 0000 [#1] SMP", "CPU: 0"}}}},
		{"WARN with a text", "------------[ cut here ]------------\nrefcount_t: underflow; use-after-free.\nWARNING: CPU: 0 PID: 7 at lib/refcount.c:28 f+0x1\n", []Report{{
			Warning, 7.000002, "WARNING: CPU: 0 PID: 7 at lib/refcount.c:28 f+0x1", []string{"refcount_t: underflow; use-after-free."}}}},
		{"KASAN", "==================================================================\nBUG: KASAN: use-after-free in f+0x1/0x2\nWrite of size 1 at addr 0 by task a/1\n" +
			"==================================================================\nlater\n", []Report{{KASAN, 7.000001, "BUG: KASAN: use-after-free in f+0x1/0x2", []string{"Write of size 1 at addr 0 by task a/1"}}}},
		{"lockdep", "======================================================\nWARNING: possible circular locking dependency detected\n6.12.0 Not tainted\n", []Report{{
			Lockdep, 7.000001, "WARNING: possible circular locking dependency detected", []string{"6.12.0 Not tainted"}}}},
		{"terminal escapes", "WARNING: CPU: 0 at \x1b[31m\xff\x00\n", []Report{{Warning, 7, "WARNING: CPU: 0 at ?[31m??", nil}}},
	} {
		got := logOf(test.text).Reports()
		if len(got) != len(test.want) {
			t.Errorf("%s: %+v", test.name, got)
			continue
		}
		for i, want := range test.want {
			if got[i].Kind != want.Kind || want.Text != "" && (got[i].Text != want.Text || got[i].Time != want.Time || !slices.Equal(got[i].Lines, want.Lines)) {
				t.Errorf("%s: %+v, want %+v", test.name, got[i], want)
			}
		}
	}
}

// TestGap: what the kernel says a while later is not part of a report that had no end.
func TestGap(t *testing.T) {
	l := NewLog(true)
	l.Console([]byte("[    1.000000] INFO: task a:1 blocked for more than 120 seconds."))
	l.Console([]byte("[    1.000001] Not tainted"))
	l.Console([]byte("[    9.000001] eth0: link up"))
	if r := l.Reports(); len(r) != 1 || len(r[0].Lines) != 1 || l.Open() {
		t.Errorf("%+v, open %v", r, l.Open())
	}
}

// TestBounds: a storm of warnings costs bounded memory, and does not hide what comes behind it.
func TestBounds(t *testing.T) {
	l := NewLog(true)
	for range 1000 {
		l.Console([]byte("[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1 " + strings.Repeat("x", 10000)))
	}
	l.Console([]byte("[    2.000000] Oops: 0000 [#1]"))
	if n := len(l.Reports()); n != maxReports+1 || l.Dropped() != 1000-maxReports || l.Count(Warning) != 1000 {
		t.Errorf("%d reports, %d left out, %d counted", n, l.Dropped(), l.Count(Warning))
	}
	if r, ok := l.Find(Oops); !ok || r.Time != 2 {
		t.Errorf("the oops is %+v", r)
	}
	if r, _ := l.Find(Warning); len(r.Text) > maxText {
		t.Errorf("a line of %d bytes is kept", len(r.Text))
	}
}

func TestExcuse(t *testing.T) {
	l := NewLog(true)
	l.Console([]byte("[    1.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!"))
	l.Excuse()
	if _, ok := l.Find(Lockup); ok || l.Dropped() != 0 {
		t.Error("it is still there")
	}
}

func TestActions(t *testing.T) {
	for _, test := range []struct {
		text string
		want map[Kind]Action
	}{
		{"", map[Kind]Action{Oops: Stop, KASAN: Stop, Lockup: Stop, Warning: Warn, Lockdep: Warn, HungTask: Warn}},
		{"warn", map[Kind]Action{Oops: Warn, KASAN: Warn, Lockup: Warn, Warning: Warn, Panic: Stop}},
		{"stop", map[Kind]Action{Oops: Stop, Warning: Stop, Kmemleak: Stop}},
		{"warning=stop,lockdep=ignore", map[Kind]Action{Oops: Stop, Warning: Stop, Lockdep: Ignore, UBSAN: Warn}},
		{"oops=warn,ignore", map[Kind]Action{Oops: Warn, Warning: Ignore}},
	} {
		actions, err := ParseActions(test.text)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
		for kind, want := range test.want {
			if got := actions.Of(kind); got != want {
				t.Errorf("%q: %s for %s, want %s", test.text, got, kind, want)
			}
		}
	}
	for _, text := range []string{"halt", "oops=", "oops=halt", "opps=stop", "panic=warn", ",", "stop,"} {
		if _, err := ParseActions(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte(strings.Join(lines(oops61), "\n")), true)
	f.Add([]byte("------------[ cut here ]------------\nkernel BUG at a.c:7!\n[   C0]\n[ 1.000000][  T1] Oops: 0000 [#1]\n"), false)
	f.Fuzz(func(t *testing.T, text []byte, timed bool) {
		l := NewLog(timed)
		for i, line := range strings.Split(string(text), "\n") {
			if _, begins := l.Console([]byte(line)); begins && i%3 == 0 {
				l.Excuse()
			}
		}
		if l.Dropped() < 0 {
			t.Errorf("%d are left out", l.Dropped())
		}
		for _, r := range l.Reports() {
			if len(r.Lines) > maxLines+2 || strings.ContainsFunc(r.Head(maxLines), func(c rune) bool { return c < ' ' && c != '\n' || c == 0x7f }) {
				t.Errorf("%+q", r)
			}
		}
	})
}
