// Command measure prints numbers of docs/performance.md that need a parent's view: how long stile takes from exec to the first
// instruction of a guest, and what the lab's nested host costs.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/lab"
)

func main() {
	guest.MaybeHelper()
	stile := flag.String("stile", "bin/stile", "the stile to measure")
	runs := flag.Int("runs", 20, "how often")
	flag.Parse()
	if err := run(*stile, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(stile string, runs int) error {
	dir, err := os.MkdirTemp("", "measure-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := microGuest(stile, dir, runs); err != nil {
		return fmt.Errorf("micro-guest: %w", err)
	}
	if err := coldLab(stile); err != nil {
		return fmt.Errorf("the lab's state: %w", err)
	}
	for _, topology := range []string{"plain", "multifunction", lab.AllTopology} {
		if err := resumes(stile, topology, runs); err != nil {
			return fmt.Errorf("the lab's resume: %w", err)
		}
	}
	return push(runs)
}

// median sorts and returns "min / median / max", in ms.
func median(times []time.Duration) string {
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.1f / %.1f / %.1f ms (min / median / max of %d)", ms(times[0]), ms(times[len(times)/2]), ms(times[len(times)-1]), len(times))
}

// microBase is where the micro-guest is loaded, guest-physical.
const microBase = 0x100000

// microKernel is an ELF file for 64-bit mode whose first instructions write a character to the serial port, and end the VM by
// debug-exit: mov $0x3f8, %edx; mov $'x', %al; out %al, (%dx); mov $0xf4, %edx; xor %eax, %eax; out %al, (%dx).
func microKernel() []byte {
	code := []byte{0xba, 0xf8, 3, 0, 0, 0xb0, 'x', 0xee, 0xba, 0xf4, 0, 0, 0, 0x31, 0xc0, 0xee, 0xf4}
	const ehdr, phdr = 64, 56
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	le := binary.LittleEndian
	b = le.AppendUint32(b, 2|62<<16) // ET_EXEC, EM_X86_64
	b = le.AppendUint32(b, 1)
	for _, v := range []uint64{microBase, ehdr, 0} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{ehdr, phdr, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // R+X
	for _, v := range []uint64{ehdr + phdr, microBase, microBase, uint64(len(code)), uint64(len(code)), 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}

// microGuest measures exec to the first character of a guest that writes it at once, on this host's KVM.
func microGuest(stile, dir string, runs int) error {
	kernel, initramfs := filepath.Join(dir, "micro.elf"), filepath.Join(dir, "empty.cpio")
	if err := os.WriteFile(kernel, microKernel(), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(initramfs, make([]byte, 4), 0o600); err != nil {
		return err
	}
	args := []string{"run", "--on", "host", "-m", "128M", "-k", kernel, "-i", initramfs}
	first, err := firstBytes(runs, 1, stile, args...)
	if err != nil {
		return err
	}
	fmt.Printf("micro-guest, 128 MiB, on this host's KVM: exec to the guest's first character, as a parent measures it: %s\n", median(first))
	nothing, err := firstBytes(runs, 1, stile, "version")
	if err != nil {
		return err
	}
	fmt.Printf("  … and to that of stile version, which makes no VM: %s\n", median(nothing))
	return nil
}

// firstBytes runs a command and measures how long it takes from exec to its first n bytes of output. A first run warms caches.
func firstBytes(runs, n int, name string, args ...string) ([]time.Duration, error) {
	var times []time.Duration
	for i := range runs + 1 {
		cmd := exec.Command(name, args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		_, err = io.ReadFull(out, make([]byte, n))
		took := time.Since(start)
		_, _ = io.Copy(io.Discard, out)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			return nil, fmt.Errorf("%s %v: %w: %s", name, args, err, stderr.String())
		}
		if i > 0 {
			times = append(times, took)
		}
	}
	return times, nil
}

// coldLab builds the state of the lab with all devices anew.
func coldLab(stile string) error {
	out, err := exec.Command(stile, "lab", "list", "--json").Output()
	if err != nil {
		return err
	}
	var states []lab.State
	if err := json.Unmarshal(out, &states); err != nil {
		return err
	}
	for _, s := range states {
		if s.Meta.Topology == lab.AllTopology {
			if out, err := exec.Command(stile, "lab", "rm", s.Key).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	start := time.Now()
	if out, err := exec.Command(stile, "lab", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	fmt.Printf("lab, all devices: built, saved and resumed in %.1f s\n", time.Since(start).Seconds())
	return nil
}

// resumes measures stile lab run, from exec to the command's output.
func resumes(stile, topology string, runs int) error {
	if out, err := exec.Command(stile, "lab", "up", "--topology", topology).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	times, err := firstBytes(runs, 1, stile, "lab", "run", "--topology", topology, "--", "echo", "here")
	if err != nil {
		return err
	}
	fmt.Printf("lab, %s: exec to the command's output: %s\n", topology, median(times))
	return nil
}

// push measures how long a file of 10 MB takes into the nested host.
func push(runs int) error {
	ctx := context.Background()
	host, err := guest.OpenLab(ctx, guest.LabSpec{}, os.Stderr)
	if err != nil {
		return err
	}
	defer host.Close()
	content := bytes.Repeat([]byte("0123456789"), 1_000_000)
	var times []time.Duration
	for range runs {
		start := time.Now()
		if err := host.Session().Push(ctx, "/run/pushed", 0o700, int64(len(content)), bytes.NewReader(content)); err != nil {
			return err
		}
		times = append(times, time.Since(start))
	}
	fmt.Printf("lab: 10 MB pushed in %s\n", median(times))
	return nil
}
