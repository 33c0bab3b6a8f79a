package vmm_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/vmm"
)

// Micro-guests, 64-bit code.
var (
	// mov $N,%al; out %al,$0xf4
	debugExit = []byte{0xb0, 42, 0xe6, 0xf4}
	// lidt of an empty table from the stack's zeros, then int3: a triple fault
	tripleFault = []byte{
		0x6a, 0x00, 0x6a, 0x00, // push $0; push $0
		0x0f, 0x01, 0x1c, 0x24, // lidt (%rsp)
		0x0f, 0x0b, // ud2
	}
	// mov $0x604,%dx; mov $0x3400,%ax; out %ax,%dx (S5, SLP_EN)
	powerOff = []byte{0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4}
	// mov $0x610,%dx; mov $1,%al; out %al,%dx
	resetRegister = []byte{0x66, 0xba, 0x10, 0x06, 0xb0, 0x01, 0xee, 0xf4}
	// mov $0xfe,%al; out %al,$0x64
	keyboardReset = []byte{0xb0, 0xfe, 0xe6, 0x64, 0xf4}
	// mov $0xcf9,%dx; mov $6,%al; out %al,%dx
	resetControl = []byte{0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4}
	// mov $0x505,%dx; mov $1,%al; out %al,%dx
	pvpanic = []byte{0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xf4}
	// jmp .
	spin = []byte{0xeb, 0xfe}
	// cli; hlt
	halt = []byte{0xfa, 0xf4}
)

// runMicro runs code for at most limit.
func runMicro(t *testing.T, cfg vmm.Config, code []byte, limit time.Duration) (vmm.Result, *vmm.VM) {
	t.Helper()
	vm := newMicro(t, cfg, code)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	result, err := vm.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return result, vm
}

// newMicro makes a machine that runs code. It is closed when the test ends.
func newMicro(t *testing.T, cfg vmm.Config, code []byte) *vmm.VM {
	t.Helper()
	testenv.KVM(t)
	cfg.Kernel = microKernel(t, code)
	if cfg.Memory == 0 {
		cfg.Memory = 32 << 20
	}
	vm, err := vmm.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return vm
}

func TestEndings(t *testing.T) {
	for _, test := range []struct {
		name   string
		code   []byte
		reason vmm.Reason
		exit   int
	}{
		{"debug exit", debugExit, vmm.DebugExit, 42},
		{"triple fault", tripleFault, vmm.TripleFault, 0},
		{"power off", powerOff, vmm.PowerOff, 0},
		{"reset register", resetRegister, vmm.Reset, 0},
		{"keyboard reset", keyboardReset, vmm.Reset, 0},
		{"reset control", resetControl, vmm.Reset, 0},
		{"pvpanic", pvpanic, vmm.Panic, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			result, _ := runMicro(t, vmm.Config{}, test.code, 20*time.Second)
			if result.Reason != test.reason || result.Code != test.exit {
				t.Errorf("ended by %+v, want %s with code %d", result, test.reason, test.exit)
			}
		})
	}
}

// TestCancel stops guests that do nothing by themselves: spinning, and halted for ever.
func TestCancel(t *testing.T) {
	for name, code := range map[string][]byte{"spin": spin, "halt": halt} {
		t.Run(name, func(t *testing.T) {
			result, _ := runMicro(t, vmm.Config{CPUs: 3}, code, 50*time.Millisecond)
			if result.Reason != vmm.Canceled {
				t.Errorf("ended by %+v, want %s", result, vmm.Canceled)
			}
		})
	}
}

// printed is code that writes text to the serial line.
func printed(text string) []byte {
	var code []byte
	for _, c := range []byte(text) {
		code = append(code, 0x66, 0xba, 0xf8, 0x03, 0xb0, c, 0xee) // mov $0x3f8,%dx; mov $c,%al; out
	}
	return code
}

func TestSerialConsole(t *testing.T) {
	code := append(printed("[1] Kernel panic - not syncing: test\n"), resetRegister...)
	var out bytes.Buffer
	result, vm := runMicro(t, vmm.Config{Console: &out}, code, 20*time.Second)
	if !strings.Contains(out.String(), "not syncing: test\n") {
		t.Errorf("console has %q", out.String())
	}
	if result.Reason != vmm.Panic || result.Detail != "Kernel panic - not syncing: test" {
		t.Errorf("ended by %+v, want the panic's line", result)
	}
	stats := vm.Stats()
	if stats.Exits["io"] == 0 {
		t.Errorf("no port exits counted: %v", stats.Exits)
	}
}

func TestNewRefuses(t *testing.T) {
	testenv.KVM(t)
	_, err := vmm.New(t.Context(), vmm.Config{Kernel: "/nonexistent", Memory: 32 << 20})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("error is %v, want one that names the kernel", err)
	}
	_, err = vmm.New(t.Context(), vmm.Config{Kernel: microKernel(t, spin), Memory: 1 << 50})
	if err == nil || !strings.Contains(err.Error(), "more than the host's") {
		t.Errorf("error is %v, want one about the host's memory", err)
	}
}

func BenchmarkMicroGuest(b *testing.B) {
	testenv.KVM(b)
	kernel := microKernel(b, debugExit)
	for b.Loop() {
		vm, err := vmm.New(b.Context(), vmm.Config{Kernel: kernel, Memory: 128 << 20, AgentPort: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := vm.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := vm.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
