package vmm

import (
	"runtime"
	"sync"
)

// procs are Go's processors (GOMAXPROCS), which the VMs of a process share. A goroutine in KVM_RUN keeps one
// until the runtime's monitor takes it away, which can take 10 ms: with fewer processors than vCPUs a doorbell
// waits that long. So while VMs are there, there are as many as vCPUs, and some for devices.
//
// It is a global because GOMAXPROCS is one.
var procs processors

type processors struct {
	mu     sync.Mutex
	vcpus  int // of all VMs
	before int // GOMAXPROCS without any VM
	set    int // GOMAXPROCS as we have set it, 0 if we have not
}

// procsForDevices are there beside those of the vCPUs.
const procsForDevices = 2

// reserve adds processors for a VM of n vCPUs. release undoes it.
func (p *processors) reserve(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vcpus == 0 {
		p.before, p.set = runtime.GOMAXPROCS(0), 0
	}
	p.vcpus += n
	p.adjust()
}

func (p *processors) release(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vcpus -= n
	p.adjust()
}

// adjust sets GOMAXPROCS to what the VMs need. A number that somebody else has set meanwhile stays if it is enough.
func (p *processors) adjust() {
	now := runtime.GOMAXPROCS(0)
	if now != p.set {
		p.before = now
	}
	want := p.before
	if p.vcpus > 0 {
		want = max(want, p.vcpus+procsForDevices)
	}
	if want != now {
		runtime.GOMAXPROCS(want)
		p.set = want
	}
}
