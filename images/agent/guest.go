package agent

import (
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// guest is the machine that the agent is PID 1 of.
type guest struct {
	phases   []agentproto.Phase
	warnings []string
	modules  moduleCount
	mounted  []string // what setup mounted, in order, as seen from the current root
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

// powerDown ends the machine: it kills every process, writes out and unmounts the file
// systems, and asks the kernel. It doesn't return.
func (g *guest) powerDown(reboot bool) {
	unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	for i := len(g.mounted) - 1; i >= 0; i-- {
		if unix.Unmount(g.mounted[i], 0) != nil {
			unix.Mount("", g.mounted[i], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	if !reboot {
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		say("this machine can't power off: resetting it instead")
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
	for { // PID 1 must not exit
		time.Sleep(time.Hour)
	}
}
