package vmm_test

import (
	"encoding/binary"
	"maps"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/layout"
	"github.com/stile-vmm/stile/vmm"
)

// decoder is code that writes the command register of the first functions on the bus: decoding on, off, and on again, as
// a driver does that sizes BARs.
func decoder(slots int) []byte {
	var code []byte
	for slot := 1; slot <= slots; slot++ {
		at := binary.LittleEndian.AppendUint32(nil, uint32(layout.ECAM)+uint32(slot)<<15+4)
		code = append(append(code, 0xbb), at...) // mov $at,%ebx
		for _, command := range []byte{2, 0, 2} {
			code = append(code, 0x66, 0xc7, 0x03, command, 0) // movw $command,(%rbx)
		}
	}
	return append(code, debugExit...)
}

// TestNoWaits: neither a guest that boots nor the end of a VM makes a call of KVM that waits for a grace period, where that can be done
// before the guest starts.
func TestNoWaits(t *testing.T) {
	vm := newMicro(t, vmm.Config{AgentPort: true, Balloon: true}, decoder(3))
	before := vm.Stats().IOCTLs
	if before["KVM_IOEVENTFD"] == 0 {
		t.Errorf("no doorbells before the guest starts: %v", before)
	}
	result, err := vm.Run(t.Context())
	if err != nil || result.Reason != vmm.DebugExit {
		t.Fatalf("ended by %+v, %v", result, err)
	}
	if after := vm.Stats().IOCTLs; !maps.Equal(before, after) {
		t.Errorf("calls while the guest ran: %v, before %v", after, before)
	}
	begin := time.Now()
	if err := vm.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("closed in %v", time.Since(begin))
	if after := vm.Stats().IOCTLs; !maps.Equal(before, after) {
		t.Errorf("calls while the VM was closed: %v, before %v", after, before)
	}
}
