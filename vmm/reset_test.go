package vmm_test

import (
	"context"
	"testing"
	"time"

	"github.com/stile-vmm/stile/vmm"
)

// rebooter counts its boots at 8 MiB, which is above what is loaded, has the second vCPU count
// itself in at 0x8100, and resets the machine by another door each time. The fourth boot exits
// with how often the second vCPU was there.
var rebooter = []byte{
	0xff, 0x04, 0x25, 0x00, 0x00, 0x80, 0x00, // incl 0x800000
	0x48, 0xb8, 0x2e, 0xf0, 0xff, 0x06, 0x00, 0x01, 0xeb, 0xfe, // movabs $0xfeeb010006fff02e,%rax
	0x48, 0x89, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00, // mov %rax,0x8000
	0xb9, 0x01, 0x4d, 0x56, 0x4b, // mov $0x4b564d01,%ecx
	0xb8, 0x01, 0x00, 0x90, 0x00, // mov $0x900001,%eax
	0x31, 0xd2, // xor %edx,%edx
	0x0f, 0x30, // wrmsr
	0xbb, 0x00, 0x00, 0xe0, 0xfe, // mov $0xfee00000,%ebx
	0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // movl $0x1ff,0xf0(%rbx)
	0xc7, 0x83, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, // movl $0x1000000,0x310(%rbx)
	0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00, // movl $0x4500,0x300(%rbx)
	0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x08, 0x46, 0x00, 0x00, // movl $0x4608,0x300(%rbx)
	0x66, 0x83, 0x3c, 0x25, 0x00, 0x81, 0x00, 0x00, 0x01, // cmpw $0x1,0x8100
	0x75, 0xf5, // jne 0x54
	0xff, 0x04, 0x25, 0x04, 0x00, 0x80, 0x00, // incl 0x800004
	0x8b, 0x04, 0x25, 0x00, 0x00, 0x80, 0x00, // mov 0x800000,%eax
	0x83, 0xf8, 0x02, // cmp $0x2,%eax
	0x72, 0x10, // jb 0x82
	0x74, 0x14, // je 0x88
	0x83, 0xf8, 0x04, // cmp $0x4,%eax
	0x72, 0x18, // jb 0x91
	0x8a, 0x04, 0x25, 0x04, 0x00, 0x80, 0x00, // mov 0x800004,%al
	0xe6, 0xf4, // out %al,$0xf4
	0xb0, 0xfe, // mov $0xfe,%al
	0xe6, 0x64, // out %al,$0x64
	0xeb, 0xfe, // jmp 0x86
	0x66, 0xba, 0xf9, 0x0c, // mov $0xcf9,%dx
	0xb0, 0x06, // mov $0x6,%al
	0xee,       // out %al,(%dx)
	0xeb, 0xfe, // jmp 0x8f
	0x66, 0xba, 0x10, 0x06, // mov $0x610,%dx
	0xb0, 0x01, // mov $0x1,%al
	0xee,       // out %al,(%dx)
	0xeb, 0xfe, // jmp 0x98
}

// stringReset writes a page of reset commands to the keyboard controller by one instruction:
// mov $0x400000,%esi; mov $0xfe,%al; mov $4096,%ecx; mov %esi,%edi; rep stosb; mov $4096,%ecx;
// mov $0x64,%dx; rep outsb; jmp .
var stringReset = []byte{
	0xbe, 0x00, 0x00, 0x40, 0x00, 0xb0, 0xfe, 0xb9, 0x00, 0x10, 0x00, 0x00, 0x89, 0xf7, 0xf3, 0xaa,
	0xb9, 0x00, 0x10, 0x00, 0x00, 0x66, 0xba, 0x64, 0x00, 0xf3, 0x6e, 0xeb, 0xfe,
}

// TestReboot resets machines that run on two vCPUs, with KVM's clock writing to RAM.
func TestReboot(t *testing.T) {
	boots := 0
	cfg := vmm.Config{CPUs: 2, OnReboot: vmm.RebootReset, AgentPort: true, Rebooting: func() error { boots++; return nil }}
	result, vm := runMicro(t, cfg, rebooter, 20*time.Second)
	if result.Reason != vmm.DebugExit || result.Code != 4 || result.Reboots != 3 || boots != 3 {
		t.Errorf("ended by %+v, after %d calls; want 3 reboots and 4 starts of the second vCPU", result, boots)
	}
	if s := vm.Stats(); s.Reboots != 3 || s.ResetMS <= 0 {
		t.Errorf("%d resets, which took %v ms", s.Reboots, s.ResetMS)
	}
}

// TestRebootedStream: when Rebooted is called, the agent's port is open for a new conversation, which ends with the next reset.
func TestRebootedStream(t *testing.T) {
	var vm *vmm.VM
	var early int
	read := make(chan error, 1)
	talk := func() {
		_, err := vm.Agent().Read(make([]byte, 1))
		read <- err
	}
	vm = newMicro(t, vmm.Config{CPUs: 2, OnReboot: vmm.RebootReset, AgentPort: true, Rebooting: func() error {
		if len(read) > 0 {
			early++
		}
		vm.Agent().Close()
		<-read
		return nil
	}, Rebooted: func() { go talk() }}, rebooter)
	go talk()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if result, err := vm.Run(ctx); err != nil || result.Reboots != 3 {
		t.Errorf("%+v, %v", result, err)
	}
	<-read
	if early > 0 {
		t.Errorf("%d of 3 conversations ended before the next reset", early)
	}
}

// TestRebootEnds: what ends a VM ends it also where resets don't.
func TestRebootEnds(t *testing.T) {
	for name, test := range map[string]struct {
		code   []byte
		cfg    vmm.Config
		reason vmm.Reason
	}{
		"triple fault":      {tripleFault, vmm.Config{}, vmm.TripleFault},
		"panic, then reset": {append(printed("Kernel panic - not syncing: x\n"), resetRegister...), vmm.Config{}, vmm.Panic},
		"refused":           {resetRegister, vmm.Config{Rebooting: func() error { return context.Canceled }}, vmm.Failed},
		"for ever":          {resetRegister, vmm.Config{}, vmm.Canceled},
		"within a string":   {stringReset, vmm.Config{}, vmm.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.OnReboot = vmm.RebootReset
			limit := 20 * time.Second
			if test.reason == vmm.Canceled {
				limit = time.Second
			}
			result, _ := runMicro(t, test.cfg, test.code, limit)
			if result.Reason != test.reason {
				t.Errorf("ended by %+v, want %s", result, test.reason)
			}
		})
	}
}
