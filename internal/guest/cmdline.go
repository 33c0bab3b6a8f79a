package guest

import (
	"slices"
	"strings"

	"github.com/stile-vmm/stile/images/agent"
)

// agentPath is where the agent stands in the initramfs.
const agentPath = "/init"

// cmdline returns the kernel's command line for a guest with the agent.
func (s Spec) cmdline() string {
	var words []string
	if !s.Verbose {
		// First, because an early console prints what came before at the level it finds.
		// Errors of level 3 are left out: they are of a PC's devices that are not there.
		words = append(words, "loglevel=3")
		// A panic prints all of the log then, which nobody can ask for any more. (PANIC_PRINT_ALL_PRINTK_MSG, since 5.18)
		words = append(words, "panic_print=0x20")
	}
	words = append(words, s.consoleWords()...)
	if !s.KeepGoing {
		words = append(words, "panic=-1") // reset at once: the VMM knows a panic from its console
	}
	words = append(words,
		"printk.time=1",   // tells the kernel's lines from those of programs, on the same console
		"8250.nr_uarts=1", // there is one, and probing for more costs exits
		"pci=noearly",     // no chipset quirks to look for by 150 port accesses
		"random.trust_cpu=on",
		"rdinit="+agentPath,
		agent.EnvAgent+"=1",
	)
	words = append(words, s.nestedWords()...)
	return strings.Join(append(words, s.Append...), " ")
}

// nestedWords returns what a guest in the lab gets beside.
func (s Spec) nestedWords() []string {
	switch {
	case !Nested():
		return nil
	case len(s.Devices) > 0:
		return sparingWords
	}
	// Nothing interrupts by a pin: setting up the I/O APIC's takes a tenth of the boot.
	return append(slices.Clone(sparingWords), "noapic")
}

// sparingWords spare a guest under emulation what costs it seconds. A profile of the default kernel's boot in the lab, which
// is a third of its time: trace_eval_init looks through all trace events for names of enums (28 %), and with one CPU each
// LOCK prefix is patched away through a temporary address space (10 %). Then eight loop devices before anybody asks for
// one, the walk through all page tables for pages that are writable and executable, and mitigations for a CPU that does
// not exist.
var sparingWords = []string{
	"initcall_blacklist=trace_eval_init", "noreplace-smp", "loop.max_loop=0", "rodata=off", "mitigations=off",
}

// consoleWords chooses the kernel's console. hvc0 is the quick one, with an early console
// until it is there; a kernel of which we don't know that it has hvc0 built in gets the
// serial line, which prints a character per exit.
func (s Spec) consoleWords() []string {
	if s.Kernel == "" {
		return []string{"earlycon=uart8250,io,0x3f8,115200", "console=hvc0"}
	}
	return []string{"console=ttyS0"}
}

// consoleCmdline returns the command line for a guest without the agent, whose console is the user's terminal.
func (s Spec) consoleCmdline() string {
	words := []string{"console=ttyS0"}
	if !s.KeepGoing {
		words = append(words, "panic=-1")
	}
	words = append(words, s.nestedWords()...)
	return strings.Join(append(words, s.Append...), " ")
}
