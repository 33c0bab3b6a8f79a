package kreport

import (
	"bytes"
	"regexp"
)

// Kind says what a report is about.
type Kind string

// The kinds of report.
const (
	Panic       Kind = "panic"
	Oops        Kind = "oops"          // an exception in kernel mode: page fault, BUG(), general protection fault
	Lockup      Kind = "lockup"        // a CPU does not schedule, or takes no interrupts
	OutOfMemory Kind = "out-of-memory" // the kernel killed a process
	KASAN       Kind = "kasan"         // use of memory that is freed or out of bounds
	KCSAN       Kind = "kcsan"         // a data race
	KMSAN       Kind = "kmsan"         // use of memory that was never written
	KFENCE      Kind = "kfence"        // as KASAN, found by sampling
	UBSAN       Kind = "ubsan"         // undefined behaviour
	Lockdep     Kind = "lockdep"       // wrong order or use of locks, or of RCU
	Atomic      Kind = "atomic"        // sleeping where that is forbidden
	Warning     Kind = "warning"       // WARN()
	HungTask    Kind = "hung-task"     // a task blocked for minutes
	RCUStall    Kind = "rcu-stall"     // a grace period that does not end
	Kmemleak    Kind = "kmemleak"      // memory that nothing points to
	Bug         Kind = "bug"           // other lines that begin with BUG: bad page states, slab corruption
)

// Chosen are the kinds for which Actions choose, in the order of their severity. A panic always ends its guest, and
// running out of memory is reported apart.
func Chosen() []Kind {
	return []Kind{
		Oops, KASAN, Lockup, Bug, KFENCE, KMSAN, KCSAN, UBSAN, Lockdep, Atomic, Warning, HungTask, RCUStall, Kmemleak,
	}
}

// header is how the first line of a report begins, and what else it must have.
type header struct {
	begin string
	holds string
	kind  Kind
}

// headers are searched in order. (Linux: kernel/panic.c, arch/x86/mm/fault.c, arch/x86/kernel/dumpstack.c, kernel/watchdog.c,
// mm/oom_kill.c, mm/kasan/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, mm/kfence/report.c, lib/ubsan.c,
// kernel/locking/lockdep.c, kernel/sched/core.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, mm/kmemleak.c, mm/slub.c)
func headers() []header {
	return []header{
		{"Kernel panic - not syncing", "", Panic},
		{"BUG: KASAN: ", "", KASAN},
		{"BUG: KCSAN: ", "", KCSAN},
		{"BUG: KMSAN: ", "", KMSAN},
		{"BUG: KFENCE: ", "", KFENCE},
		{"UBSAN: ", " in ", UBSAN},
		{"BUG: soft lockup", "", Lockup},
		{"Watchdog detected hard LOCKUP", "", Lockup},
		{"Watchdog detected NMI", "", Lockup},
		{"BUG: unable to handle ", "", Oops},
		{"BUG: kernel NULL pointer dereference", "", Oops},
		{"BUG: ", "stack guard page was hit", Oops},
		{"kernel BUG at ", "", Oops},
		{"Oops: ", "", Oops},
		{"general protection fault, ", "", Oops},
		{"BUG: scheduling while atomic", "", Atomic},
		{"BUG: sleeping function called from invalid context", "", Atomic},
		{"[ BUG: ", " ]", Lockdep},
		{"BUG: MAX_LOCK", "too low", Lockdep},
		{"INFO: trying to register non-static key", "", Lockdep},
		{"WARNING: CPU: ", "", Warning},
		{"WARNING: at ", "", Warning},
		{"WARNING: ", " at ", Warning},
		{"INFO: task ", " blocked ", HungTask},
		{"INFO: ", "self-detected stall on CPU", RCUStall},
		{"INFO: ", "detected stalls on CPUs/tasks", RCUStall},
		{"INFO: ", "detected expedited stalls on CPUs/tasks", RCUStall},
		{"INFO: rcu_tasks", "detected stalls on tasks", RCUStall},
		{"kmemleak: ", "new suspected memory leaks", Kmemleak},
		{"Out of memory: Killed process ", "", OutOfMemory},
		{"BUG: ", "", Bug},
		{"BUG ", "ainted", Bug}, // BUG kmalloc-64 (Not tainted): Poison overwritten
	}
}

// lockdepTexts are what lockdep has behind "WARNING: ", where other warnings say in which file and line they are.
func lockdepTexts() []string {
	return []string{
		"possible circular locking dependency detected", "possible recursive locking detected", "possible irq lock inversion dependency detected",
		"inconsistent lock state", "lock order detected", "bad unlock balance detected", "bad contention detected", "held lock freed",
		"lock held when returning to user space", "still has locks held", "Nested lock was not taken", "suspicious RCU usage",
		"invalid wait context", "hardirq-safe", "possible hardirq",
	}
}

// subsystems are what the parts of the kernel that report put before it.
func subsystems() []string { return []string{"rcu: ", "watchdog: ", "NMI watchdog: ", "workqueue: "} }

// dieLine ends the first lines of each oops: "Oops: 0002 [#1] PREEMPT SMP".
var dieLine = regexp.MustCompile(`^[A-Za-z][^\[]*: [0-9a-f]{4} \[#[0-9]+\]`)

// processor is before a hard lockup since 6.5.
var processor = regexp.MustCompile(`^CPU[0-9]+: `)

// matcher knows the first lines of reports.
type matcher struct {
	headers  []header
	lockdep  []string
	prefixes []string
}

func newMatcher() matcher { return matcher{headers(), lockdepTexts(), subsystems()} }

// match returns the kind of report that a line of the kernel begins, and the line without the name of its subsystem.
func (m *matcher) match(text []byte) (Kind, []byte) {
	for _, prefix := range m.prefixes {
		text = bytes.TrimPrefix(text, []byte(prefix))
	}
	text = text[len(processor.Find(text)):]
	if after, ok := bytes.CutPrefix(text, []byte("WARNING: ")); ok {
		for _, words := range m.lockdep {
			if bytes.Contains(after, []byte(words)) {
				return Lockdep, text
			}
		}
	}
	for _, h := range m.headers {
		if bytes.HasPrefix(text, []byte(h.begin)) && bytes.Contains(text, []byte(h.holds)) {
			return h.kind, text
		}
	}
	if dieLine.Match(text) {
		return Oops, text
	}
	return "", nil
}
