package vmm_test

import (
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/kvm"
	"github.com/stile-vmm/stile/vmm"
)

// microcode exits with a byte of the microcode's revision, which is in EAX on AMD's CPUs and in EDX on Intel's.
var microcode = []byte{
	0xb9, 0x8b, 0x00, 0x00, 0x00, // mov $0x8b,%ecx
	0x0f, 0x32, // rdmsr
	0x09, 0xd0, // or %edx,%eax
	0xe6, 0xf4, // out %al,$0xf4
}

// TestMicrocode: a guest finds the host's microcode, not the one that KVM makes up.
func TestMicrocode(t *testing.T) {
	testenv.KVM(t)
	system, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	host, ok := system.FeatureMSR(0x8b)
	if !ok {
		t.Fatal("KVM says nothing of the host's microcode")
	}
	result, _ := runMicro(t, vmm.Config{}, microcode, 20*time.Second)
	if want := int(byte(host.Data | host.Data>>32)); result.Reason != vmm.DebugExit || result.Code != want {
		t.Errorf("ended by %+v, want a debug exit with %#x, of %#x", result, want, host.Data)
	}
}
