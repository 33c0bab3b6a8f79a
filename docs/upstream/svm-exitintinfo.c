// SPDX-License-Identifier: Apache-2.0
/*
 * A guest takes an exception (#UD, through its own IVT) and then writes to a page without memory.
 * KVM_RUN must return KVM_EXIT_MMIO. This is done once for each of eight pages.
 *
 * With KVM for AMD since Linux 6.14 on QEMU's emulated SVM, KVM_RUN returns KVM_EXIT_INTERNAL_ERROR,
 * KVM_INTERNAL_ERROR_DELIVERY_EV, although no event is left to be delivered. The next KVM_RUN returns
 * KVM_EXIT_MMIO. (A #VMEXIT between the exception and the write, by the host's timer or for a page of
 * RAM that is not mapped yet, hides it, so not all of the eight have to fail.)
 *
 *	cc -static -o svm-exitintinfo svm-exitintinfo.c && ./svm-exitintinfo
 *
 * Exit status: 0 right, 1 wrong, 2 it can't be tried.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define RAM	0x8000
#define MMIO	0x8000		/* to 0xffff */
#define PAGE	0x1000

static const unsigned char code[] = {
	0x0f, 0x0b,			/* 1000: ud2 */
};

static const unsigned char handler[] = {
	0x88, 0x07,			/* 1100: mov %al,(%bx) */
};

static int check(const char *what, int result)
{
	if (result < 0)
		err(2, "%s", what);
	return result;
}

int main(void)
{
	int kvm = check("/dev/kvm", open("/dev/kvm", O_RDWR));
	int vm = check("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));
	int vcpu = check("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
	int size = check("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	unsigned char *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {
		.memory_size = RAM, .userspace_addr = (unsigned long)ram,
	};
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	unsigned int page, wrong = 0;

	if (run == MAP_FAILED || ram == MAP_FAILED)
		err(2, "mmap");
	memcpy(ram + 0x1000, code, sizeof(code));
	memcpy(ram + 0x1100, handler, sizeof(handler));
	ram[6 * 4 + 1] = 0x11;		/* the IVT's entry 6: 0000:1100 */
	check("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
	check("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	check("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &sregs));
	for (page = MMIO; page <= 0xffff; page += PAGE) {
		memset(&regs, 0, sizeof(regs));
		regs.rip = 0x1000;
		regs.rsp = 0x7000;
		regs.rbx = page;
		regs.rflags = 2;
		check("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &regs));
		check("KVM_RUN", ioctl(vcpu, KVM_RUN, 0));
		if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
			check("KVM_GET_REGS", ioctl(vcpu, KVM_GET_REGS, &regs));
			check("KVM_GET_VCPU_EVENTS", ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events));
			printf("%#x: suberror %u at rip %#llx, data", page, run->internal.suberror, regs.rip);
			for (unsigned int i = 0; i < run->internal.ndata; i++)
				printf(" %#llx", run->internal.data[i]);
			printf("; injected: exception %u, interrupt %u, NMI %u\n", events.exception.injected,
			       events.interrupt.injected, events.nmi.injected);
			wrong++;
			check("KVM_RUN", ioctl(vcpu, KVM_RUN, 0));
		}
		if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != page)
			errx(2, "%#x: unexpected exit reason %u", page, run->exit_reason);
		run->immediate_exit = 1;	/* complete the write, no more */
		ioctl(vcpu, KVM_RUN, 0);
		run->immediate_exit = 0;
	}
	printf("%s: %u of 8 writes refused\n", wrong ? "FAIL" : "PASS", wrong);
	return wrong ? 1 : 0;
}
