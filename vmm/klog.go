package vmm

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// mark is how Linux begins the part of a line that tells of trouble.
type mark struct {
	text   string
	reason Reason
}

// marks are what a kernel's log is searched for. All are printed at a level that also a
// quiet console has. (kernel/panic.c; arch/x86/mm/fault.c, kernel/dumpstack.c; kernel/watchdog.c; mm/oom_kill.c)
func marks() []mark {
	return []mark{
		{"Kernel panic - not syncing", Panic},
		{"BUG: soft lockup", Lockup},
		{"Watchdog detected hard LOCKUP", Lockup},
		{"Watchdog detected NMI", Lockup},
		{"Oops: ", Oops},
		{"kernel BUG at ", Oops},
		{"BUG: unable to handle ", Oops},
		{"general protection fault, ", Oops},
		{"Out of memory: Killed process ", OutOfMemory},
	}
}

// troubleGrace is how long a guest whose kernel told of trouble may go on to say where,
// before the VM ends. With panic=-1 on its command line it ends a panic sooner by itself.
const troubleGrace = 5 * time.Second

// endsVM reports whether trouble of this kind ends the VM.
func (c *Config) endsVM(r Reason) bool {
	switch r {
	case Panic, Lockup:
		return !c.KeepGoing
	case Oops:
		return c.StopOnOops && !c.KeepGoing
	}
	return false
}

// trouble is told once of each kind of trouble.
func (v *VM) trouble(r Result) {
	switch {
	case v.cfg.endsVM(r.Reason):
		time.AfterFunc(troubleGrace, func() { v.end(r) })
	case r.Reason == OutOfMemory:
		v.notice(fmt.Sprintf("the guest ran out of memory: %s; more RAM helps", r.Detail))
	case r.Reason == Oops:
		v.notice("the guest's kernel has a fault and goes on: " + r.Detail)
	default:
		v.notice("the guest is kept for a debugger: " + r.Detail)
	}
}

// find returns what a line of the kernel's log tells of.
func find(marks []mark, line []byte) (Result, bool) {
	for _, m := range marks {
		if i := bytes.Index(line, []byte(m.text)); i >= 0 {
			return Result{Reason: m.reason, Detail: string(bytes.TrimRight(line[i:], "\r"))}, true
		}
	}
	return Result{}, false
}

// timed is the word of a kernel's command line by which its log's lines begin with a time, also where that is not its default.
const timed = "printk.time=1"

// linesTimed reports whether a kernel with this command line is known to begin its log's lines with a time.
func linesTimed(cmdline string) bool {
	key, _, _ := strings.Cut(timed, "=")
	last := ""
	for word := range strings.FieldsSeq(cmdline) {
		if strings.HasPrefix(word, key+"=") {
			last = word
		}
	}
	return last == timed
}

// behindTime returns what follows the first time in a line of a console, "[    1.234567]", if there is one. It need not be
// at the line's beginning, for a prompt may stand there. (kernel/printk/printk.c, print_time)
func behindTime(line []byte) (rest []byte, ok bool) {
	for {
		_, after, found := bytes.Cut(line, []byte{'['})
		if !found {
			return nil, false
		}
		line = after
		seconds, after, _ := bytes.Cut(bytes.TrimLeft(after, " "), []byte{'.'})
		micros, after, closed := bytes.Cut(after, []byte{']'})
		if closed && isNumber(seconds) && isNumber(micros) && len(micros) == 6 {
			return after, true
		}
	}
}

func isNumber(text []byte) bool {
	for _, b := range text {
		if b < '0' || b > '9' {
			return false
		}
	}
	return len(text) > 0
}

// told returns r, or in its place what the guest's kernel said before: a guest that panics ends by a reset.
func (v *VM) told(r Result) Result {
	if fault, ok := v.fault(); ok && r.Reason != Canceled {
		return fault
	}
	return r
}

// fault returns the trouble that ends the VM, if the guest's kernel told of any.
func (v *VM) fault() (Result, bool) {
	for _, kind := range []Reason{Panic, Lockup, Oops} {
		if said, ok := v.console.found(kind); ok && v.cfg.endsVM(kind) {
			return said, true
		}
	}
	return Result{}, false
}

// Said returns the trouble of a kind that the guest's kernel has told of, if it did.
func (v *VM) Said(kind Reason) (Result, bool) { return v.console.found(kind) }

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
