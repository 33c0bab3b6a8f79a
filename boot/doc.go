// Package boot puts a kernel, its initial RAM disk and its command line into guest
// RAM and says in which state vCPU 0 has to start. No firmware runs in the guest.
//
// Three kinds of kernel are taken:
//
//   - an ELF vmlinux, entered in 64-bit mode with a zero page, as the Linux/x86 boot
//     protocol's 64-bit entry has it (Documentation/arch/x86/boot.rst);
//   - an ELF kernel with the PVH note, entered in 32-bit protected mode with an
//     hvm_start_info (xen/include/public/arch-x86/hvm/start_info.h);
//   - a bzImage, entered at its own 64-bit entry, so that it unpacks itself inside the
//     guest. [Kernel.Unpack] does that on the host instead: what it writes is an ELF
//     vmlinux.
//
// A Linux vmlinux is entered in 64-bit mode even where it has the PVH note: the PVH
// path only builds in 32-bit mode what the zero page already holds and looks for Xen
// with 256 CPUID instructions, each of them an exit.
//
// The files that this package reads are foreign bytes. Whatever they hold ends in an
// error that names the file, says what is wrong and what to do about it.
package boot
