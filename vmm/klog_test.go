package vmm

import (
	"testing"
	"time"
)

func TestKernelLogMarks(t *testing.T) {
	for line, want := range map[string]Reason{
		"[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs":       Panic,
		"[   26.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:1]":       Lockup,
		"[    2.0] BUG: unable to handle page fault for address: 0000000000000010": Oops,
		"[    2.0] Oops: 0000 [#1] PREEMPT SMP":                                    Oops,
		"[    2.0] kernel BUG at mm/slub.c:1!":                                     Oops,
		"[    2.0] Out of memory: Killed process 61 (tail) total-vm:117224kB":      OutOfMemory,
		"[    2.0] Memory cgroup out of memory: Killed process 61 (tail)":          "",
		"[    2.0] rcu: INFO: rcu_preempt self-detected stall on CPU":              "",
		"[    2.0] nothing to see":                                                 "",
	} {
		if r, _ := find(marks(), []byte(line+"\r")); r.Reason != want {
			t.Errorf("%q: %q, want %q", line, r.Reason, want)
		}
	}
}

// TestWhoseLine: what a program writes to the console is not the kernel's word.
func TestWhoseLine(t *testing.T) {
	const panicked = "Kernel panic - not syncing: x"
	for _, test := range []struct {
		cmdline, said string
		want          Reason
	}{
		{"console=ttyS0", panicked + "\n", Panic}, // of a kernel whose lines have no times
		{"console=ttyS0", "[    0.000000] Linux\n" + panicked + "\n", ""},
		{"console=ttyS0 printk.time=1", panicked + "\n", ""},
		{"printk.time=1 quiet printk.time=0", panicked + "\n", Panic},
		{"printk.time=1", "[    1.000001] " + panicked + "\n", Panic},
		{"printk.time=1", "[12345.678901][  T123] " + panicked + "\r\n", Panic},
		{"printk.time=1", "host [1.2] login: [  10.000001] " + panicked + "\n", Panic},
		{"printk.time=1", panicked + " [    1.000001] at\n", ""},
		{"printk.time=1", "[ 1.0] [x.000001] [1.00000x] [] [1.123456" + panicked + "\n", ""},
	} {
		c := newConsole(nil, linesTimed(test.cmdline), nil)
		_, _ = c.Write([]byte(test.said))
		if r, _ := c.found(Panic); r.Reason != test.want {
			t.Errorf("%q prints %q: %q, want %q", test.cmdline, test.said, r.Reason, test.want)
		}
	}
}

// TestTrouble has a guest say several things; some end the VM, and which depends.
func TestTrouble(t *testing.T) {
	const oops, panicked, memory = "Oops: 0000\n", "Kernel panic - not syncing: x\r\n", "Out of memory: Killed process 1 (a)\n"
	for _, test := range []struct {
		name    string
		cfg     Config
		said    []string
		end     Result // what the VM would end with
		want    Reason
		notices int
	}{
		{"panic", Config{}, []string{panicked}, Result{Reason: Reset}, Panic, 0},
		{"panic that is kept", Config{KeepGoing: true}, []string{panicked}, Result{Reason: Reset}, Reset, 1},
		{"fault", Config{}, []string{oops, oops, memory}, Result{Reason: PowerOff}, PowerOff, 2},
		{"fault that ends it", Config{StopOnOops: true}, []string{oops}, Result{Reason: PowerOff}, Oops, 0},
		{"panic behind a fault", Config{StopOnOops: true}, []string{oops, panicked}, Result{Reason: Reset}, Panic, 0},
		{"stopped from outside", Config{}, []string{panicked}, Result{Reason: Canceled}, Canceled, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			notices := make(chan string, 10)
			test.cfg.Notice = func(text string) { notices <- text }
			v := &VM{cfg: test.cfg, ended: make(chan struct{})}
			v.console = newConsole(nil, false, v.trouble)
			for _, line := range test.said {
				for _, b := range []byte(line) { // as a serial line brings it
					_, _ = v.console.Write([]byte{b})
				}
			}
			for range test.notices {
				select {
				case <-notices:
				case <-time.After(10 * time.Second):
					t.Fatal("nothing was told")
				}
			}
			v.end(test.end)
			if v.result.Reason != test.want {
				t.Errorf("the VM ends with %q, want %q", v.result.Reason, test.want)
			}
		})
	}
}
