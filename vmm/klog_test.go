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
			v.console = newConsole(nil, v.trouble)
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
