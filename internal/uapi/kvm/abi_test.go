package kvm

import (
	"testing"

	"github.com/stile-vmm/stile/internal/uapi/golden"
)

const goldenFile = "testdata/facts.golden"

func TestGoldenFileIsWhatTheHeadersSay(t *testing.T) {
	golden.Program(t, "testdata/facts.c", goldenFile)
}

func TestABI(t *testing.T) {
	facts := golden.Facts{}
	addStructs(t, facts)
	addRun(t, facts)
	for name, value := range numbers {
		facts[name] = value
	}
	golden.Check(t, goldenFile, facts)
}

type layout struct {
	cname string
	value any
	names string
}

func add(t *testing.T, facts golden.Facts, layouts []layout) {
	t.Helper()
	for _, l := range layouts {
		if err := facts.Struct(l.cname, l.value, l.names); err != nil {
			t.Fatal(err)
		}
	}
}

func addStructs(t *testing.T, facts golden.Facts) {
	add(t, facts, []layout{
		{"kvm_regs", Regs{}, "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"},
		{"kvm_segment", Segment{}, "base limit selector type present dpl db s l g avl unusable"},
		{"kvm_dtable", Descriptor{}, "base limit"},
		{"kvm_sregs", Sregs{}, "cs ds es fs gs ss tr ldt gdt idt cr0 cr2 cr3 cr4 cr8 efer apic_base interrupt_bitmap"},
		{"kvm_debugregs", DebugRegs{}, "db dr6 dr7 flags"},
		{"kvm_xcrs", XCRs{}, "nr_xcrs flags xcrs"},
		{"kvm_xcr", XCR{}, "xcr value"},
		{"kvm_userspace_memory_region", MemoryRegion{}, "slot flags guest_phys_addr memory_size userspace_addr"},
		{"kvm_cpuid_entry2", CPUIDEntry{}, "function index flags eax ebx ecx edx -"},
		{"kvm_vcpu_events", VCPUEvents{}, "exception interrupt nmi sipi_vector flags smi triple_fault" +
			" exception_has_payload exception_payload"},
		{"kvm_mp_state", MPState{}, "mp_state"},
		{"kvm_lapic_state", LAPICState{}, "regs"},
		{"kvm_irqchip", IRQChip{}, "chip_id chip"},
		{"kvm_pit_channel_state", PITChannelState{}, "count latched_count count_latched status_latched status" +
			" read_state write_state write_latch rw_mode mode bcd gate count_load_time"},
		{"kvm_pit_state2", PITState2{}, "channels flags"},
		{"kvm_dirty_log", DirtyLog{}, "slot dirty_bitmap"},
		{"kvm_translation", Translation{}, "linear_address physical_address valid writeable usermode"},
		{"kvm_fpu", FPU{}, "fpr fcw fsw ftwx last_opcode last_ip last_dp xmm mxcsr"},
		{"kvm_xsave", XSave{}, "region"},
		{"kvm_msr_entry", MSREntry{}, "index data"},
		{"kvm_msrs", ListHeader{}, "-"},
		{"kvm_cpuid2", ListHeader{}, "-"},
		{"kvm_irq_routing", ListHeader{}, "-"},
		{"kvm_irq_level", IRQLevel{}, "irq level"},
		{"kvm_pit_config", PITConfig{}, "flags"},
		{"kvm_reinject_control", ReinjectControl{}, "pit_reinject"},
		{"kvm_one_reg", OneReg{}, "id addr"},
		{"kvm_irq_routing_entry", IRQRoutingEntry{}, "gsi type flags u"},
		{"kvm_irqfd", IRQFD{}, "fd gsi flags resamplefd"},
		{"kvm_ioeventfd", IOEventFD{}, "datamatch addr len fd flags"},
		{"kvm_msi", MSI{}, "address_lo address_hi data flags devid"},
		{"kvm_clock_data", ClockData{}, "clock flags realtime host_tsc"},
		{"kvm_enable_cap", EnableCap{}, "cap flags args"},
		{"kvm_create_device", CreateDevice{}, "type fd flags"},
		{"kvm_device_attr", DeviceAttr{}, "flags group attr addr"},
		{"kvm_guest_debug", GuestDebug{}, "control arch"},
		{"kvm_interrupt", Interrupt{}, "irq"},
	})
	// Entries follow their header, and the union's members lie where U's words are.
	for _, list := range []string{"kvm_msrs", "kvm_cpuid2", "kvm_irq_routing"} {
		facts[list+".entries"] = facts[list]
	}
	u := facts["kvm_irq_routing_entry.u"]
	for i, member := range []string{"address_lo", "address_hi", "data", "devid"} {
		facts["kvm_irq_routing_entry.u.msi."+member] = u + 4*uint64(i)
	}
	facts["kvm_irq_routing_entry.u.irqchip.irqchip"] = u
	facts["kvm_irq_routing_entry.u.irqchip.pin"] = u + 4
}

func addRun(t *testing.T, facts golden.Facts) {
	add(t, facts, []layout{
		{"kvm_run", Run{}, "request_interrupt_window immediate_exit exit_reason ready_for_interrupt_injection if_flag" +
			" flags cr8 apic_base hw kvm_valid_regs kvm_dirty_regs s"},
		{"kvm_run:io", RunIO{}, "direction size port count data_offset"},
		{"kvm_run:mmio", RunMMIO{}, "phys_addr data len is_write"},
		{"kvm_run:fail_entry", RunFailEntry{}, "hardware_entry_failure_reason cpu"},
		{"kvm_run:debug", RunDebug{}, "arch.exception arch.pc arch.dr6 arch.dr7"},
		{"kvm_run:hypercall", RunHypercall{}, "nr args ret longmode"},
		{"kvm_run:internal", RunInternal{}, "suberror ndata data"},
		{"kvm_run:emulation_failure", RunEmulationFailure{}, "suberror ndata flags insn_size insn_bytes"},
		{"kvm_run:system_event", RunSystemEvent{}, "type ndata data"},
		{"kvm_run:msr", RunMSR{}, "error reason index data"},
		{"kvm_run:memory_fault", RunMemoryFault{}, "flags gpa size"},
	})
}
