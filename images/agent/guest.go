package agent

import (
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// guest is the machine that the agent is PID 1 of.
type guest struct {
	phases   []agentproto.Phase
	warnings []string
	modules  moduleCount
}

// mark notes that a phase of the start is over.
func (g *guest) mark(name string) {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return
	}
	g.phases = append(g.phases, agentproto.Phase{Name: name, Nanoseconds: ts.Nano()})
}

// maxWarnings keeps the Hello below its bounds.
const maxWarnings = 32

// warn notes for the Hello what failed without being fatal.
func (g *guest) warn(format string, args ...any) {
	if len(g.warnings) < maxWarnings {
		g.warnings = append(g.warnings, fmt.Sprintf(format, args...))
	}
}

// say prints a line on the machine's console.
func say(format string, args ...any) {
	line := fmt.Sprintf("stile-agent: "+format+"\n", args...)
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		os.Stderr.WriteString(line)
		return
	}
	defer f.Close()
	f.WriteString(line)
}

// die says why, and powers the machine off.
func (g *guest) die(why string) {
	say("%s: powering off", why)
	g.powerDown(false)
}

// catch, deferred in every goroutine, turns a panic into a last line and a power off.
func (g *guest) catch() {
	r := recover()
	if r == nil {
		return
	}
	say("panic: %v\n%s", r, debug.Stack())
	g.die("the agent panicked")
}
