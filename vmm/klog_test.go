package vmm

import (
	"slices"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/kreport"
)

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
		c := newConsole(nil, kreport.LinesTimed(test.cmdline), nil)
		_, _ = c.Write([]byte(test.said))
		if r, _ := c.found(kreport.Panic); Reason(r.Kind) != test.want {
			t.Errorf("%q prints %q: %q, want %q", test.cmdline, test.said, r.Kind, test.want)
		}
	}
}

// TestTrouble has a guest say several things; some end the VM, and which depends.
func TestTrouble(t *testing.T) {
	const oops, warning = "Oops: 0000 [#1]\n", "WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n"
	const panicked, memory = "Kernel panic - not syncing: x\r\n", "Out of memory: Killed process 1 (a)\n"
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
		{"faults that are survived", Config{OnReport: Reports{kreport.Oops: kreport.Warn}}, []string{oops, oops, memory}, Result{Reason: PowerOff}, PowerOff, 3},
		{"fault", Config{}, []string{oops}, Result{Reason: PowerOff}, Oops, 0},
		{"fault that is kept", Config{KeepGoing: true}, []string{oops}, Result{Reason: PowerOff}, PowerOff, 1},
		{"fault behind the command's end", Config{}, []string{oops}, Result{Reason: Canceled}, Oops, 0},
		{"fault that is ignored", Config{OnReport: Reports{kreport.Oops: kreport.Ignore}}, []string{oops}, Result{Reason: Canceled}, Canceled, 0},
		{"panic behind a fault", Config{}, []string{oops, panicked}, Result{Reason: Reset}, Panic, 0},
		{"warning", Config{}, []string{warning, warning}, Result{Reason: Canceled}, Canceled, 2},
		{"warning that ends it", Config{OnReport: Reports{kreport.Warning: kreport.Stop}}, []string{warning}, Result{Reason: Canceled}, "warning", 0},
		{"warnings without end", Config{}, slices.Repeat([]string{warning}, 100), Result{Reason: Canceled}, Canceled, maxNotices},
	} {
		t.Run(test.name, func(t *testing.T) {
			notices := make(chan string, 200)
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
			v.console.telling.Wait()
			if n := len(notices); n > 0 {
				t.Errorf("%d notices too many: %s", n, <-notices)
			}
			if v.result.Reason != test.want {
				t.Errorf("the VM ends with %q, want %q", v.result.Reason, test.want)
			}
		})
	}
}
