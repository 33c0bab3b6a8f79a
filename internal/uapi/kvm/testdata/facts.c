// Prints sizes, offsets and numbers of the KVM ABI, one "name value" per line.
#include <stddef.h>
#include <stdio.h>
#include <linux/kvm.h>
#include <asm/kvm_para.h>
#include <asm/prctl.h>

#define S(s) printf(#s " %zu\n", sizeof(struct s))
#define F(s, f) printf(#s "." #f " %zu\n", offsetof(struct s, f))
#define N(n) printf(#n " %#llx\n", (unsigned long long)(n))
// Members of kvm_run's union, with offsets from the member's start.
#define U(m) printf("kvm_run:" #m " %zu\n", sizeof(((struct kvm_run *)0)->m))
#define UF(m, f) printf("kvm_run:" #m "." #f " %zu\n", \
	offsetof(struct kvm_run, m.f) - offsetof(struct kvm_run, hw))

static void structs(void)
{
	S(kvm_regs); F(kvm_regs, rax); F(kvm_regs, rbx); F(kvm_regs, rcx); F(kvm_regs, rdx);
	F(kvm_regs, rsi); F(kvm_regs, rdi); F(kvm_regs, rsp); F(kvm_regs, rbp);
	F(kvm_regs, r8); F(kvm_regs, r9); F(kvm_regs, r10); F(kvm_regs, r11);
	F(kvm_regs, r12); F(kvm_regs, r13); F(kvm_regs, r14); F(kvm_regs, r15);
	F(kvm_regs, rip); F(kvm_regs, rflags);
	S(kvm_segment); F(kvm_segment, base); F(kvm_segment, limit); F(kvm_segment, selector);
	F(kvm_segment, type); F(kvm_segment, present); F(kvm_segment, dpl); F(kvm_segment, db);
	F(kvm_segment, s); F(kvm_segment, l); F(kvm_segment, g); F(kvm_segment, avl); F(kvm_segment, unusable);
	S(kvm_dtable); F(kvm_dtable, base); F(kvm_dtable, limit);
	S(kvm_sregs); F(kvm_sregs, cs); F(kvm_sregs, ds); F(kvm_sregs, es); F(kvm_sregs, fs);
	F(kvm_sregs, gs); F(kvm_sregs, ss); F(kvm_sregs, tr); F(kvm_sregs, ldt);
	F(kvm_sregs, gdt); F(kvm_sregs, idt); F(kvm_sregs, cr0); F(kvm_sregs, cr2); F(kvm_sregs, cr3);
	F(kvm_sregs, cr4); F(kvm_sregs, cr8); F(kvm_sregs, efer); F(kvm_sregs, apic_base);
	F(kvm_sregs, interrupt_bitmap);
	S(kvm_debugregs); F(kvm_debugregs, db); F(kvm_debugregs, dr6); F(kvm_debugregs, dr7); F(kvm_debugregs, flags);
	S(kvm_xcrs); F(kvm_xcrs, nr_xcrs); F(kvm_xcrs, flags); F(kvm_xcrs, xcrs);
	S(kvm_xcr); F(kvm_xcr, xcr); F(kvm_xcr, value);
	S(kvm_userspace_memory_region); F(kvm_userspace_memory_region, slot); F(kvm_userspace_memory_region, flags);
	F(kvm_userspace_memory_region, guest_phys_addr); F(kvm_userspace_memory_region, memory_size);
	F(kvm_userspace_memory_region, userspace_addr);
	S(kvm_cpuid_entry2); F(kvm_cpuid_entry2, function); F(kvm_cpuid_entry2, index); F(kvm_cpuid_entry2, flags);
	F(kvm_cpuid_entry2, eax); F(kvm_cpuid_entry2, ebx); F(kvm_cpuid_entry2, ecx); F(kvm_cpuid_entry2, edx);
	S(kvm_vcpu_events); F(kvm_vcpu_events, exception); F(kvm_vcpu_events, interrupt); F(kvm_vcpu_events, nmi);
	F(kvm_vcpu_events, sipi_vector); F(kvm_vcpu_events, flags); F(kvm_vcpu_events, smi);
	F(kvm_vcpu_events, triple_fault); F(kvm_vcpu_events, exception_has_payload); F(kvm_vcpu_events, exception_payload);
	S(kvm_mp_state); F(kvm_mp_state, mp_state);
	S(kvm_lapic_state); F(kvm_lapic_state, regs);
	S(kvm_irqchip); F(kvm_irqchip, chip_id); F(kvm_irqchip, chip);
	S(kvm_pit_channel_state); F(kvm_pit_channel_state, count); F(kvm_pit_channel_state, latched_count);
	F(kvm_pit_channel_state, count_latched); F(kvm_pit_channel_state, status_latched);
	F(kvm_pit_channel_state, status); F(kvm_pit_channel_state, read_state); F(kvm_pit_channel_state, write_state);
	F(kvm_pit_channel_state, write_latch); F(kvm_pit_channel_state, rw_mode); F(kvm_pit_channel_state, mode);
	F(kvm_pit_channel_state, bcd); F(kvm_pit_channel_state, gate); F(kvm_pit_channel_state, count_load_time);
	S(kvm_pit_state2); F(kvm_pit_state2, channels); F(kvm_pit_state2, flags);
	S(kvm_dirty_log); F(kvm_dirty_log, slot); F(kvm_dirty_log, dirty_bitmap);
	S(kvm_translation); F(kvm_translation, linear_address); F(kvm_translation, physical_address);
	F(kvm_translation, valid); F(kvm_translation, writeable); F(kvm_translation, usermode);
	S(kvm_fpu); F(kvm_fpu, fpr); F(kvm_fpu, fcw); F(kvm_fpu, fsw); F(kvm_fpu, ftwx); F(kvm_fpu, last_opcode);
	F(kvm_fpu, last_ip); F(kvm_fpu, last_dp); F(kvm_fpu, xmm); F(kvm_fpu, mxcsr);
	S(kvm_xsave); F(kvm_xsave, region);
	S(kvm_msr_entry); F(kvm_msr_entry, index); F(kvm_msr_entry, data);
	S(kvm_msrs); S(kvm_cpuid2); S(kvm_irq_routing);
	F(kvm_msrs, entries); F(kvm_cpuid2, entries); F(kvm_irq_routing, entries);
	S(kvm_irq_level); F(kvm_irq_level, irq); F(kvm_irq_level, level);
	S(kvm_pit_config); F(kvm_pit_config, flags);
	S(kvm_irq_routing_entry); F(kvm_irq_routing_entry, gsi); F(kvm_irq_routing_entry, type);
	F(kvm_irq_routing_entry, flags); F(kvm_irq_routing_entry, u);
	F(kvm_irq_routing_entry, u.irqchip.irqchip); F(kvm_irq_routing_entry, u.irqchip.pin);
	F(kvm_irq_routing_entry, u.msi.address_lo); F(kvm_irq_routing_entry, u.msi.address_hi);
	F(kvm_irq_routing_entry, u.msi.data); F(kvm_irq_routing_entry, u.msi.devid);
	S(kvm_irqfd); F(kvm_irqfd, fd); F(kvm_irqfd, gsi); F(kvm_irqfd, flags); F(kvm_irqfd, resamplefd);
	S(kvm_ioeventfd); F(kvm_ioeventfd, datamatch); F(kvm_ioeventfd, addr); F(kvm_ioeventfd, len);
	F(kvm_ioeventfd, fd); F(kvm_ioeventfd, flags);
	S(kvm_msi); F(kvm_msi, address_lo); F(kvm_msi, address_hi); F(kvm_msi, data); F(kvm_msi, flags); F(kvm_msi, devid);
	S(kvm_clock_data); F(kvm_clock_data, clock); F(kvm_clock_data, flags); F(kvm_clock_data, realtime);
	F(kvm_clock_data, host_tsc);
	S(kvm_enable_cap); F(kvm_enable_cap, cap); F(kvm_enable_cap, flags); F(kvm_enable_cap, args);
	S(kvm_create_device); F(kvm_create_device, type); F(kvm_create_device, fd); F(kvm_create_device, flags);
	S(kvm_device_attr); F(kvm_device_attr, flags); F(kvm_device_attr, group); F(kvm_device_attr, attr);
	F(kvm_device_attr, addr);
	S(kvm_guest_debug); F(kvm_guest_debug, control); F(kvm_guest_debug, arch);
	S(kvm_reinject_control); F(kvm_reinject_control, pit_reinject);
	S(kvm_one_reg); F(kvm_one_reg, id); F(kvm_one_reg, addr);
	S(kvm_interrupt); F(kvm_interrupt, irq);
}

static void run(void)
{
	S(kvm_run); F(kvm_run, request_interrupt_window); F(kvm_run, immediate_exit); F(kvm_run, exit_reason);
	F(kvm_run, ready_for_interrupt_injection); F(kvm_run, if_flag); F(kvm_run, flags); F(kvm_run, cr8);
	F(kvm_run, apic_base); F(kvm_run, hw); F(kvm_run, kvm_valid_regs); F(kvm_run, kvm_dirty_regs); F(kvm_run, s);
	U(io); UF(io, direction); UF(io, size); UF(io, port); UF(io, count); UF(io, data_offset);
	U(mmio); UF(mmio, phys_addr); UF(mmio, data); UF(mmio, len); UF(mmio, is_write);
	U(fail_entry); UF(fail_entry, hardware_entry_failure_reason); UF(fail_entry, cpu);
	U(debug); UF(debug, arch.exception); UF(debug, arch.pc); UF(debug, arch.dr6); UF(debug, arch.dr7);
	U(hypercall); UF(hypercall, nr); UF(hypercall, args); UF(hypercall, ret); UF(hypercall, longmode);
	U(internal); UF(internal, suberror); UF(internal, ndata); UF(internal, data);
	U(emulation_failure); UF(emulation_failure, suberror); UF(emulation_failure, ndata);
	UF(emulation_failure, flags); UF(emulation_failure, insn_size); UF(emulation_failure, insn_bytes);
	U(system_event); UF(system_event, type); UF(system_event, ndata); UF(system_event, data);
	U(msr); UF(msr, error); UF(msr, reason); UF(msr, index); UF(msr, data);
#ifdef KVM_EXIT_MEMORY_FAULT
	U(memory_fault); UF(memory_fault, flags); UF(memory_fault, gpa); UF(memory_fault, size);
	N(KVM_EXIT_MEMORY_FAULT);
#else /* headers before Linux 6.8: nothing to compare with */
	puts("kvm_run:memory_fault 24\nkvm_run:memory_fault.flags 0\nkvm_run:memory_fault.gpa 8\n"
	     "kvm_run:memory_fault.size 16\nKVM_EXIT_MEMORY_FAULT 0x27");
#endif
}

static void ioctls(void)
{
	N(KVM_GET_API_VERSION); N(KVM_CREATE_VM); N(KVM_GET_MSR_INDEX_LIST); N(KVM_CHECK_EXTENSION);
	N(KVM_GET_VCPU_MMAP_SIZE); N(KVM_GET_SUPPORTED_CPUID); N(KVM_GET_MSR_FEATURE_INDEX_LIST);
	N(KVM_CREATE_VCPU); N(KVM_GET_DIRTY_LOG); N(KVM_SET_USER_MEMORY_REGION); N(KVM_SET_TSS_ADDR);
	N(KVM_SET_IDENTITY_MAP_ADDR); N(KVM_CREATE_IRQCHIP); N(KVM_IRQ_LINE); N(KVM_GET_IRQCHIP); N(KVM_SET_IRQCHIP);
	N(KVM_SET_GSI_ROUTING); N(KVM_REINJECT_CONTROL); N(KVM_IRQFD); N(KVM_CREATE_PIT2); N(KVM_SET_BOOT_CPU_ID); N(KVM_IOEVENTFD);
	N(KVM_SET_CLOCK); N(KVM_GET_CLOCK); N(KVM_GET_PIT2); N(KVM_SET_PIT2); N(KVM_SET_TSC_KHZ); N(KVM_GET_TSC_KHZ); N(KVM_SIGNAL_MSI);
	N(KVM_ENABLE_CAP); N(KVM_CREATE_DEVICE); N(KVM_SET_DEVICE_ATTR); N(KVM_GET_DEVICE_ATTR); N(KVM_HAS_DEVICE_ATTR);
	N(KVM_RUN); N(KVM_GET_REGS); N(KVM_SET_REGS); N(KVM_GET_SREGS); N(KVM_SET_SREGS); N(KVM_TRANSLATE);
	N(KVM_INTERRUPT); N(KVM_GET_MSRS); N(KVM_SET_MSRS); N(KVM_GET_FPU); N(KVM_SET_FPU); N(KVM_GET_LAPIC);
	N(KVM_SET_LAPIC); N(KVM_SET_CPUID2); N(KVM_GET_CPUID2); N(KVM_GET_MP_STATE); N(KVM_SET_MP_STATE); N(KVM_NMI);
	N(KVM_SET_GUEST_DEBUG); N(KVM_GET_VCPU_EVENTS); N(KVM_SET_VCPU_EVENTS); N(KVM_GET_DEBUGREGS);
	N(KVM_SET_DEBUGREGS); N(KVM_GET_XSAVE); N(KVM_SET_XSAVE); N(KVM_GET_XSAVE2); N(KVM_GET_XCRS); N(KVM_SET_XCRS); N(KVM_KVMCLOCK_CTRL);
	N(KVM_GET_ONE_REG); N(KVM_SET_ONE_REG);
	N(KVM_GET_NESTED_STATE); N(KVM_SET_NESTED_STATE);
}

static void capabilities(void)
{
	N(KVM_CAP_IRQCHIP); N(KVM_CAP_HLT); N(KVM_CAP_USER_MEMORY); N(KVM_CAP_SET_TSS_ADDR); N(KVM_CAP_EXT_CPUID);
	N(KVM_CAP_CLOCKSOURCE); N(KVM_CAP_NR_VCPUS); N(KVM_CAP_NR_MEMSLOTS); N(KVM_CAP_MP_STATE); N(KVM_CAP_SYNC_MMU);
	N(KVM_CAP_SET_GUEST_DEBUG); N(KVM_CAP_REINJECT_CONTROL); N(KVM_CAP_ONE_REG);
	N(KVM_CAP_GET_MSR_FEATURES); N(KVM_CAP_IRQ_ROUTING); N(KVM_CAP_IRQFD); N(KVM_CAP_PIT2); N(KVM_CAP_IOEVENTFD);
	N(KVM_CAP_SET_IDENTITY_MAP_ADDR); N(KVM_CAP_ADJUST_CLOCK); N(KVM_CAP_INTERNAL_ERROR_DATA);
	N(KVM_CAP_VCPU_EVENTS); N(KVM_CAP_DEBUGREGS); N(KVM_CAP_XSAVE); N(KVM_CAP_XCRS); N(KVM_CAP_TSC_CONTROL);
	N(KVM_CAP_GET_TSC_KHZ); N(KVM_CAP_MAX_VCPUS); N(KVM_CAP_TSC_DEADLINE_TIMER); N(KVM_CAP_SYNC_REGS);
	N(KVM_CAP_KVMCLOCK_CTRL); N(KVM_CAP_SIGNAL_MSI); N(KVM_CAP_READONLY_MEM); N(KVM_CAP_IRQFD_RESAMPLE);
	N(KVM_CAP_DEVICE_CTRL); N(KVM_CAP_ENABLE_CAP_VM); N(KVM_CAP_IOEVENTFD_NO_LENGTH); N(KVM_CAP_X86_SMM);
	N(KVM_CAP_SPLIT_IRQCHIP); N(KVM_CAP_IOEVENTFD_ANY_LENGTH); N(KVM_CAP_MAX_VCPU_ID); N(KVM_CAP_X2APIC_API);
	N(KVM_CAP_MSI_DEVID); N(KVM_CAP_IMMEDIATE_EXIT); N(KVM_CAP_X86_DISABLE_EXITS); N(KVM_CAP_NESTED_STATE);
	N(KVM_CAP_X86_USER_SPACE_MSR); N(KVM_CAP_EXIT_ON_EMULATION_FAILURE); N(KVM_CAP_XSAVE2);
	N(KVM_CAP_PMU_CAPABILITY); N(KVM_PMU_CAP_DISABLE);
	N(ARCH_REQ_XCOMP_GUEST_PERM);
}

static void numbers(void)
{
	N(KVM_API_VERSION);
	N(KVM_EXIT_UNKNOWN); N(KVM_EXIT_EXCEPTION); N(KVM_EXIT_IO); N(KVM_EXIT_HYPERCALL); N(KVM_EXIT_DEBUG);
	N(KVM_EXIT_HLT); N(KVM_EXIT_MMIO); N(KVM_EXIT_IRQ_WINDOW_OPEN); N(KVM_EXIT_SHUTDOWN); N(KVM_EXIT_FAIL_ENTRY);
	N(KVM_EXIT_INTR); N(KVM_EXIT_SET_TPR); N(KVM_EXIT_TPR_ACCESS); N(KVM_EXIT_NMI); N(KVM_EXIT_INTERNAL_ERROR);
	N(KVM_EXIT_WATCHDOG); N(KVM_EXIT_SYSTEM_EVENT); N(KVM_EXIT_IOAPIC_EOI); N(KVM_EXIT_HYPERV); N(KVM_EXIT_X86_RDMSR);
	N(KVM_EXIT_X86_WRMSR); N(KVM_EXIT_DIRTY_RING_FULL); N(KVM_EXIT_AP_RESET_HOLD); N(KVM_EXIT_X86_BUS_LOCK);
	N(KVM_EXIT_XEN); N(KVM_EXIT_NOTIFY);
	N(KVM_EXIT_IO_IN); N(KVM_EXIT_IO_OUT);
	N(KVM_INTERNAL_ERROR_EMULATION); N(KVM_INTERNAL_ERROR_SIMUL_EX); N(KVM_INTERNAL_ERROR_DELIVERY_EV);
	N(KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON); N(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
	N(KVM_SYSTEM_EVENT_SHUTDOWN); N(KVM_SYSTEM_EVENT_RESET); N(KVM_SYSTEM_EVENT_CRASH);
	N(KVM_MEM_LOG_DIRTY_PAGES); N(KVM_MEM_READONLY);
	N(KVM_IRQFD_FLAG_DEASSIGN); N(KVM_IRQFD_FLAG_RESAMPLE);
	N(KVM_IOEVENTFD_FLAG_DATAMATCH); N(KVM_IOEVENTFD_FLAG_PIO); N(KVM_IOEVENTFD_FLAG_DEASSIGN);
	N(KVM_IRQ_ROUTING_IRQCHIP); N(KVM_IRQ_ROUTING_MSI);
	N(KVM_IRQCHIP_PIC_MASTER); N(KVM_IRQCHIP_PIC_SLAVE); N(KVM_IRQCHIP_IOAPIC); N(KVM_IOAPIC_NUM_PINS);
	N(KVM_MP_STATE_RUNNABLE); N(KVM_MP_STATE_UNINITIALIZED); N(KVM_MP_STATE_INIT_RECEIVED);
	N(KVM_MP_STATE_HALTED); N(KVM_MP_STATE_SIPI_RECEIVED);
	N(KVM_GUESTDBG_ENABLE); N(KVM_GUESTDBG_SINGLESTEP); N(KVM_GUESTDBG_USE_SW_BP); N(KVM_GUESTDBG_USE_HW_BP);
	N(KVM_REG_X86); N(KVM_REG_SIZE_U64);
#ifdef KVM_REG_GUEST_SSP /* Linux 6.18 */
#define KVM_REG_GUEST_SSP_ID KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)
#else /* as Documentation/virt/kvm/api.rst has it */
#define KVM_REG_GUEST_SSP_ID (KVM_REG_X86 | KVM_REG_SIZE_U64 | 3ULL << 32)
#endif
	N(KVM_REG_GUEST_SSP_ID);
	N(KVM_PIT_SPEAKER_DUMMY); N(KVM_CLOCK_TSC_STABLE); N(KVM_CLOCK_REALTIME); N(KVM_CLOCK_HOST_TSC);
	N(KVM_DEV_TYPE_VFIO); N(KVM_DEV_VFIO_GROUP); N(KVM_DEV_VFIO_GROUP_ADD); N(KVM_DEV_VFIO_GROUP_DEL);
	N(KVM_CPUID_SIGNATURE); N(KVM_CPUID_FEATURES); N(KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	N(KVM_FEATURE_ASYNC_PF); N(KVM_FEATURE_ASYNC_PF_VMEXIT); N(KVM_FEATURE_ASYNC_PF_INT);
}

int main(void)
{
	structs();
	run();
	ioctls();
	capabilities();
	numbers();
	return 0;
}
