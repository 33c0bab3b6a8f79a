package vmm

import (
	"fmt"
	"time"

	"github.com/stile-vmm/stile/internal/kreport"
)

// troubleGrace is how long a guest whose kernel told of trouble may go on to say where,
// before the VM ends. With panic=-1 on its command line it ends a panic sooner by itself.
const troubleGrace = 5 * time.Second

// maxNotices is how many reports of a kind are passed on as notices: a guest can make any number of them.
const maxNotices = 8

// endsVM reports whether a report of this kind ends the VM.
func (c *Config) endsVM(k kreport.Kind) bool {
	return k != kreport.OutOfMemory && !c.KeepGoing && (k == kreport.Panic || c.OnReport.Of(k) == kreport.Stop)
}

// resultOf is how a report ends a VM.
func resultOf(r kreport.Report) Result {
	if r.Kind == kreport.Panic || r.Kind == kreport.OutOfMemory {
		return Result{Reason: Reason(r.Kind), Detail: r.Text} // what led to a panic was reported before
	}
	return Result{Reason: Reason(r.Kind), Detail: r.Head(faultLines)}
}

// trouble is called at each report of the guest's kernel; n counts those of its kind.
func (v *VM) trouble(r kreport.Report, n int) {
	switch {
	case v.cfg.endsVM(r.Kind):
		if n == 1 {
			go v.endAfter(r)
		}
	case n > maxNotices || r.Kind != kreport.Panic && r.Kind != kreport.OutOfMemory && v.cfg.OnReport.Of(r.Kind) == kreport.Ignore:
	case n == maxNotices:
		v.notice(fmt.Sprintf("further reports of kind %s of the guest's kernel are not shown here", r.Kind))
	case r.Kind == kreport.OutOfMemory:
		v.notice(fmt.Sprintf("the guest ran out of memory: %s; more RAM helps", r.Text))
	case r.Kind == kreport.Panic || v.cfg.OnReport.Of(r.Kind) == kreport.Stop:
		v.notice("the guest is kept for a debugger: " + r.Text)
	default:
		v.notice(fmt.Sprintf("the guest's kernel reports (%s) and goes on: %s", r.Kind, r.Text))
	}
}

// printingGrace is how much longer than troubleGrace a guest may take that still prints: a panic prints all of the log.
const printingGrace = 30 * time.Second

// endAfter ends the VM because of a report, once the kernel had the time to print what belongs to it.
func (v *VM) endAfter(r kreport.Report) {
	until := time.Now().Add(troubleGrace + printingGrace)
	for wait, size := troubleGrace, uint64(0); ; wait = time.Second {
		timer := time.NewTimer(wait)
		select {
		case <-v.ended:
			timer.Stop()
			return
		case <-timer.C:
		}
		now := v.console.written()
		if r.Kind != kreport.Panic || now == size || time.Now().After(until) {
			v.end(resultOf(r))
			return
		}
		size = now
	}
}

// told returns r, or in its place what the guest's kernel reported before, whatever ends the VM then: a guest that panics ends
// by a reset, and a command that an oops killed ends before its guest does.
func (v *VM) told(r Result) Result {
	if fault, ok := v.Fault(); ok {
		return fault
	}
	return r
}

// Fault returns the report that ends the VM, if the guest's kernel made one.
func (v *VM) Fault() (Result, bool) {
	for _, kind := range append([]kreport.Kind{kreport.Panic, kreport.Lockup}, kreport.Chosen()...) {
		if said, ok := v.console.found(kind); ok && v.cfg.endsVM(kind) {
			return resultOf(said), true
		}
	}
	return Result{}, false
}

// faultLines is how many lines of a report a message has: those of an oops to its instruction and registers.
const faultLines = 12

// Said returns the first report of a kind, if the guest's kernel made one.
func (v *VM) Said(kind Reason) (Result, bool) {
	said, ok := v.console.found(kreport.Kind(kind))
	return resultOf(said), ok
}

// Reports returns what the guest's kernel has reported of its faults so far, and how many reports that leaves out.
func (v *VM) Reports() (reports []kreport.Report, dropped int) { return v.console.reports() }

// KernelRecord takes a record of the ring buffer of the guest's kernel, as a read of /dev/kmsg has it: reports in it count as those on the
// console do. It returns its lines as a console prints them, without those that the console had; nothing of what is no record.
func (v *VM) KernelRecord(line []byte) []byte {
	r, ok := kreport.ParseRecord(line)
	if !ok {
		return nil
	}
	return v.console.record(r)
}

// settleStep is how long a console is quiet that has printed a report to its end.
const settleStep = 100 * time.Millisecond

// AwaitReport returns when a report that ends the VM was printed as far as it will be, at once if there is none. The
// guest must be running.
func (v *VM) AwaitReport() {
	if _, ok := v.Fault(); !ok {
		return
	}
	limit := time.NewTimer(troubleGrace)
	defer limit.Stop()
	for size := v.console.written(); v.console.reporting(); {
		select {
		case <-v.ended:
			return
		case <-limit.C:
			return
		case <-time.After(settleStep):
		}
		now := v.console.written()
		if now == size {
			return
		}
		size = now
	}
}

// describe adds where the vCPUs were to the result of a guest that did nothing any more. They must have stopped.
func (v *VM) describe() {
	if v.result.Reason != Stalled && v.result.Reason != Hung && v.result.Reason != Lockup {
		return
	}
	for _, c := range v.cpus {
		v.result.Detail += "\n" + c.vcpu.Describe()
	}
}

// End ends the VM for a reason that only its user can know: the guest does not answer, or its boot has
// stalled. The first reason counts.
func (v *VM) End(r Result) { v.end(r) }

// Progress changes while the guest does anything that can be seen from outside: it counts exits and what is printed.
func (v *VM) Progress() uint64 {
	n := v.console.written()
	for _, c := range v.cpus {
		for reason := range c.exits {
			n += c.exits[reason].Load()
		}
	}
	return n
}
