package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/vmm"
)

// What flags of several commands say.
const (
	kernelUsage  = "`KERNEL`: a bzImage or vmlinux, a folder where one was built or a lib/modules/RELEASE that holds one, a packaged version such as 6.12 or 7.2@sid, or host (default: stile's own)"
	modulesUsage = "`FOLDER` with the kernel's modules, lib/modules/RELEASE (default: the one that belongs to it)"
	cpusUsage    = "`N` CPUs (default: this host's, up to 4; in the lab 1, which is fastest there)"
	deviceUsage  = "`DEVICE` of the host to pass through: a PCI ADDRESS, ADDRESS,bind to bind it for the run, or a mediated device's UUID; repeatable"
	onOopsUsage  = "`ACTION` when the guest's kernel reports a fault that it survives: stop the VM, warn or ignore, for all kinds, or KIND=ACTION,… (default: stop for oops, kasan and lockup, else warn); docs/run.md has the kinds"
	netUsage     = "network `CARD`: user[,fwd=[HOSTIP:]PORT:GUESTPORT[/udp]]…, tap=NAME[,ip=ADDRESS/BITS] or macvtap=NAME, see docs/networks.md; repeatable (default: none)"
)

// cpusFlag is a number of CPUs, 0 where none is named.
type cpusFlag int

func (c *cpusFlag) String() string {
	if *c == 0 {
		return ""
	}
	return strconv.Itoa(int(*c))
}

func (c *cpusFlag) Type() string { return "N" }

// Set implements pflag.Value. Too many is for the check of the machine.
func (c *cpusFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err == nil && n < 1 {
		return fmt.Errorf("%q: must be 1 to %d", text, vmm.MaxCPUs)
	}
	*c = cpusFlag(n)
	return err
}

// checkOutput refuses a file that can't be written to for want of its folder; - is no file. It makes nothing.
func checkOutput(flag, path string) error {
	if path == "" || path == "-" {
		return nil
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return fmt.Errorf("%s %s: it is a folder", flag, path)
	}
	if err := guest.CheckLinks(flag, path); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%s %s: %w", flag, path, err)
	}
	return nil
}

// sizeFlag is a number of bytes with a unit. A bare number is refused, because tools
// disagree whether it means bytes or megabytes.
type sizeFlag uint64

func (s *sizeFlag) String() string { return vmm.Bytes(*s).String() }
func (s *sizeFlag) Type() string   { return "SIZE" }

func (s *sizeFlag) Set(text string) error {
	n, err := parseSize(text)
	if err == nil {
		*s = sizeFlag(n)
	}
	return err
}

func parseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "KMGTkmgtiB")
	unit := strings.ToUpper(text[len(digits):])
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 512M or 2G", text)
	}
	shift := map[string]uint{
		"K": 10, "M": 20, "G": 30, "T": 40,
		"KIB": 10, "MIB": 20, "GIB": 30, "TIB": 40,
		"KB": 10, "MB": 20, "GB": 30, "TB": 40,
	}[unit]
	if unit == "" {
		return 0, fmt.Errorf("%q has no unit; write %sM or %sG", text, digits, digits)
	}
	if shift == 0 || n == 0 || n > (1<<63)>>shift {
		return 0, fmt.Errorf("%q is not a size such as 512M or 2G", text)
	}
	return n << shift, nil
}

// vsockFlag is a vsock device.
type vsockFlag struct{ device **vmm.Vsock }

func (v vsockFlag) Type() string { return "CID" }

func (v vsockFlag) String() string {
	if v.device == nil || *v.device == nil {
		return ""
	}
	return guest.VsockText(*v.device)
}

func (v vsockFlag) Set(text string) (err error) {
	*v.device, err = guest.ParseVsock(text)
	return err
}

// aliases are names that users of other tools type.
var aliases = map[string]string{
	"cmdline": "append", "params": "append",
	"vfio-pci": "device",
	"initrd":   "initramfs", "mem": "memory", "ram": "memory", "smp": "cpus", "cpu": "cpus",
}

func normalizeFlag(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if to, ok := aliases[name]; ok {
		name = to
	}
	return pflag.NormalizedName(name)
}

// suggestFlag names the flag of c that is closest to the unknown one err complains of.
func suggestFlag(c *cobra.Command, err error) string {
	_, name, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return ""
	}
	best, distance := "", min(3, len(name)/2+1)
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := editDistance(name, f.Name); d < distance {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean --%s?)", best)
}

// editDistance is the Levenshtein distance of two short strings.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
