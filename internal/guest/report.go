package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/vmm"
)

// Report tells what a run did, for --json.
type Report struct {
	Status  int    `json:"status"`            // stile's exit status
	Reason  string `json:"reason"`            // see docs/run.md
	Message string `json:"message,omitempty"` // what went wrong
	On      string `json:"on"`                // host, or lab
	Kernel  string `json:"kernel,omitempty"`  // the guest kernel's release
	ID      string `json:"id,omitempty"`      // the VM's, for stile logs
	Log     string `json:"log,omitempty"`     // path of its console's log
	// Guest says how the guest itself ended: that it was stopped, powered itself off, panicked.
	Guest *vmm.Result `json:"guest,omitempty"`

	// Faults are what the guest's kernel has reported of its own faults, in order; see vmm.VM.Reports.
	Faults []vmm.Report `json:"faults,omitempty"`
	// FaultsLeftOut is how many of these are not in the list.
	FaultsLeftOut int `json:"faults_left_out,omitempty"`

	// Lab says how long the steps of resuming the nested host took.
	Lab       []PhaseTime       `json:"lab,omitempty"`
	Phases    []PhaseTime       `json:"phases,omitempty"`
	Exits     map[string]uint64 `json:"exits,omitempty"`   // counts by KVM exit reason
	Devices   map[string]uint64 `json:"devices,omitempty"` // counts by device accessed
	ExitCount uint64            `json:"exit_count"`
	IOCTLs    map[string]uint64 `json:"ioctls,omitempty"`   // counts of KVM's calls that may wait, to the guest's end
	Stops     uint64            `json:"stops,omitempty"`    // how often stile was stopped for seconds, and the guest with it
	Reboots   int               `json:"reboots,omitempty"`  // how often the guest was booted again
	ResetMS   float64           `json:"reset_ms,omitempty"` // from its resets to its next first instructions, in all
	// SpuriousErrors is how often KVM was asked again after an error that was none of the guest's.
	SpuriousErrors uint64 `json:"spurious_errors"`
	// PeakRSS is the most memory that this process ever had resident, in bytes, guest
	// RAM that was touched included.
	PeakRSS uint64 `json:"peak_rss"`
	// GuestRAM is how much RAM the guest has, GuestRAMResident what of it is resident on the host at the end, in bytes, where
	// Spec.CountRAM asks for it.
	GuestRAM         uint64 `json:"guest_ram,omitempty"`
	GuestRAMResident uint64 `json:"guest_ram_resident,omitempty"`
	// Passthrough is about devices of the host that the guest had.
	Passthrough *vmm.Passthrough `json:"passthrough,omitempty"`
}

// PhaseTime is a point on the way, in ms since the process started; in Report.Lab a
// step and its length.
type PhaseTime struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Times turns phases into times since the process started.
func Times(phases []vmm.Phase) []PhaseTime {
	start := ProcessStart()
	out := make([]PhaseTime, len(phases))
	for i, p := range phases {
		out[i] = PhaseTime{p.Name, float64(p.At.Sub(start).Microseconds()) / 1000}
	}
	return out
}

// AddMachine fills in what v cost, the VM of s. It is to be called after v's run.
func (r *Report) AddMachine(v *vmm.VM, s Spec, marks []vmm.Phase) {
	phases := append(append([]vmm.Phase(nil), marks...), v.Phases()...)
	slices.SortStableFunc(phases, func(a, b vmm.Phase) int { return a.At.Compare(b.At) })
	r.Phases = Times(phases)
	stats := v.Stats()
	r.Exits, r.Devices, r.IOCTLs = stats.Exits, stats.Devices, stats.IOCTLs
	r.Reboots, r.ResetMS, r.Stops = stats.Reboots, stats.ResetMS, stats.Stops
	r.SpuriousErrors = stats.SpuriousErrors
	for _, n := range stats.Exits {
		r.ExitCount += n
	}
	r.GuestRAM = s.withDefaults().Memory
	if s.CountRAM {
		r.GuestRAMResident = v.ResidentRAM()
	}
	r.Passthrough = v.Passthrough()
	r.Faults, r.FaultsLeftOut = v.Reports()
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		r.PeakRSS = uint64(usage.Maxrss) << 10
	}
}

func (g *Guest) report() Report {
	r := g.control.Report()
	r.Guest = &g.result
	if s := g.Session(); s != nil {
		r.Kernel = s.Hello().Kernel
	}
	r.AddMachine(g.vm, g.spec, g.marks)
	return r
}

// WriteJSON writes r to the file at path, or to w for "-".
func (r *Report) WriteJSON(path string, w io.Writer) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if path == "-" {
		_, err = w.Write(text)
		return err
	}
	return os.WriteFile(path, text, 0o666)
}

// clockTicks is USER_HZ, the unit of times in /proc on every Linux/x86-64.
const clockTicks = 100

// ProcessStart returns when this process was started, as the kernel has it, in steps of
// 10 ms; the present where /proc is not there.
func ProcessStart() time.Time {
	ticks, err := startTicks()
	if err != nil {
		return time.Now()
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Now()
	}
	since := time.Duration(boot.Nano()) - time.Duration(ticks)*(time.Second/clockTicks)
	return time.Now().Add(-since)
}

func startTicks() (uint64, error) {
	const startField = 22 // of proc_pid_stat(5), counted from 1
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold spaces; the fields behind it start with the third.
	rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) <= startField-3 {
		return 0, fmt.Errorf("/proc/self/stat has %d fields", len(fields))
	}
	return strconv.ParseUint(fields[startField-3], 10, 64)
}
