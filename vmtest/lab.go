package vmtest

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
)

// LabConfig describes a nested host. The zero value is one without devices.
type LabConfig struct {
	// Topology is the name of a shipped topology, or the path of a file with one: see docs/lab.md.
	Topology string
	// Kernel is the nested host's: "built", "debug", "6.1", "6.12", "host", "default" or the path of a bzImage. ""
	// is the built one where "stile lab kernel build" has made it.
	Kernel string
	// CPUs is the number of its processors; 0 is one, which is fastest.
	CPUs int
	// Memory is in bytes; 0 is 2 GiB.
	Memory uint64
}

// Lab resumes a nested host with KVM, an IOMMU and PCI devices, under emulation, and returns it as a VM: Command
// runs commands in it, as root, with a copy-on-write view of this host's files. It ends with the
// test. Many subtests may share one where they don't disturb each other's devices.
//
// The test is skipped where there is no QEMU, or fails where STILE_TEST_REQUIRE lists "lab".
// When it fails, the end of the nested host's console is logged.
func Lab(t testing.TB, c LabConfig) *VM {
	t.Helper()
	if !outside(t) {
		return absentVM()
	}
	ctx, cancel := context.WithTimeout(t.Context(), guest.LabRoom)
	defer cancel()
	host, err := guest.OpenLab(ctx, guest.LabSpec{
		Topology: c.Topology, Kernel: c.Kernel, CPUs: c.CPUs, Mem: c.Memory,
	}, os.Stderr)
	var lacks *guest.NoQEMUError
	if errors.As(err, &lacks) {
		testenv.Missing(t, "lab", err.Error())
	}
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	vm := &VM{session: host.Session(), dir: dir, log: host.Log, close: host.Close, env: host.Env()}
	vm.endWith(t)
	return vm
}

// RunInLab calls f with a resumed nested host, as a subtest named after the topology.
func RunInLab(t *testing.T, topology string, f func(t *testing.T, host *VM)) bool {
	t.Helper()
	return t.Run(topology, func(t *testing.T) { f(t, Lab(t, LabConfig{Topology: topology})) })
}
