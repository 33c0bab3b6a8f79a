// Command rival runs other VMMs and stile in turn in the lab's nested host, with the same kernel and the same
// initramfs, whose init ends the guest at once. It prints the medians of what start to userspace to end takes.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/lab"
)

// Where things are in the nested host: in memory, so that no VMM is measured reading them from outside.
const (
	place     = "/run/rival"
	kernel    = place + "/kernel"
	initramfs = place + "/initramfs"
	program   = place + "/bin/init" // package init
)

// cmdline is the kernel's. Each VMM ends when the guest resets.
const cmdline = "console=ttyS0 quiet panic=-1 mitigations=off rodata=off reboot="

// kvmtoolWords are for kvmtool's guests: there are no tables that tell of an I/O APIC, no host bridge that makes the kernel believe in
// configuration by ports, and Linux 7.1 crashes over an XCR0 that the emulated SVM keeps from changing.
const kvmtoolWords = "k noapic pci=conf1 noxsave"

// vmm is one of those that are compared.
type vmm struct {
	name string
	args []string
	disk []string // arguments to add for the disk
	runs []time.Duration
}

func main() {
	guest.MaybeHelper()
	runs := flag.Int("runs", 7, "how often each runs")
	image := flag.String("kernel", "", "the guest's bzImage")
	kvmtool := flag.String("kvmtool", "", "a static lkvm, to be compared")
	parts := flag.String("parts", "boot", "what is compared: boot, disk, net, folder")
	mib := flag.Int("read", 1024, "how much of a file in a shared folder is read, in MiB: at most 1024")
	stile := flag.String("stile", "bin/stile", "the stile to be compared")
	flag.Parse()
	if err := run(*runs, *mib, *image, *kvmtool, *stile, *parts); err != nil {
		fmt.Fprintln(os.Stderr, "rival:", err)
		os.Exit(1)
	}
}

func run(runs, mib int, image, kvmtool, stile, parts string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
	defer cancel()
	host, err := guest.OpenLab(ctx, guest.LabSpec{}, os.Stderr)
	if err != nil {
		return err
	}
	defer host.Close()
	vmms, err := install(ctx, host, image, kvmtool, stile)
	if err != nil {
		return err
	}
	if strings.Contains(parts, "boot") {
		if err := compareBoots(ctx, host, vmms, runs); err != nil {
			return err
		}
	}
	if strings.Contains(parts, "disk") {
		if err := compareDisks(ctx, host, vmms, runs); err != nil {
			return err
		}
	}
	if strings.Contains(parts, "net") {
		if err := compareNetworks(ctx, host, vmms, runs); err != nil {
			return err
		}
	}
	if strings.Contains(parts, "folder") {
		return compareFolders(ctx, host, vmms, runs, mib)
	}
	return nil
}

func compareBoots(ctx context.Context, host *guest.LabHost, vmms []*vmm, runs int) error {
	for i := range runs + 1 {
		for _, v := range vmms {
			took, _, err := measure(ctx, host, v.args)
			if err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			if i > 0 { // the first run warms caches
				v.runs = append(v.runs, took)
			}
		}
	}
	fmt.Printf("start to userspace to end, %d runs in turn, ms: min / median / max\n", runs)
	for _, v := range vmms {
		slices.Sort(v.runs)
		fmt.Printf("%-14s %5d / %5d / %5d\n", v.name, v.runs[0].Milliseconds(), v.runs[len(v.runs)/2].Milliseconds(), v.runs[len(v.runs)-1].Milliseconds())
	}
	return nil
}

// install puts everything into the nested host and returns who is compared.
func install(ctx context.Context, host *guest.LabHost, image, kvmtool, stile string) ([]*vmm, error) {
	dir, err := measured(ctx)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	put := func(from, to string) error {
		from, err := filepath.Abs(from)
		if err != nil {
			return err
		}
		_, err = shell(ctx, host, `mkdir -p "$(dirname "$2")" && cp -L "$1" "$2" && chmod 755 "$2"`, from, to)
		return err
	}
	if err := errors.Join(put(image, kernel), put(filepath.Join(dir, "initramfs"), initramfs), put(filepath.Join(dir, "init"), program), put(stile, place+"/stile")); err != nil {
		return nil, err
	}
	vmms := []*vmm{{name: "stile", disk: []string{"--disk", diskImage + ",format=raw"}, args: []string{place + "/stile", "run", "--rng=false", "-m", "256M", "-k", kernel, "-i", initramfs, "-a", cmdline + "k"}}}
	if kvmtool != "" {
		if err := put(kvmtool, place+"/lkvm"); err != nil {
			return nil, err
		}
		vmms = append(vmms, &vmm{name: "kvmtool", disk: []string{"--disk", diskImage}, args: []string{
			place + "/lkvm", "run", "--nodefaults", "-k", kernel, "-i", initramfs, "-m", "256", "-c", "1", "--console", "serial",
			"--network", "mode=none", "-p", cmdline + kvmtoolWords,
		}})
	}
	if qemu, err := exec.LookPath("qemu-system-x86_64"); err == nil {
		if _, err := shell(ctx, host, copyQEMU, qemu, place); err != nil {
			return nil, err
		}
		vmms = append(vmms, &vmm{name: "QEMU microvm", disk: qemuDisk, args: []string{
			"env", "LD_LIBRARY_PATH=" + place + "/lib", place + "/qemu", "-L", place + "/lib", "-M", "microvm,accel=kvm,rtc=on", "-cpu", "host", "-m", "256", "-smp", "1",
			"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
			"-kernel", kernel, "-initrd", initramfs, "-append", cmdline + "t", // it has no i8042
		}})
	}
	return vmms, nil
}

// copyQEMU copies QEMU with its libraries and firmware: the nested host would read them from outside at each start.
const copyQEMU = `mkdir -p "$2/lib" && cp -L "$1" "$2/qemu" && ldd "$1" | awk '/=> \//{print $3}' | xargs -I{} cp -L {} "$2/lib/"
for f in bios-microvm.bin linuxboot_dma.bin; do
	for d in /usr/share/qemu /usr/share/seabios /usr/share/qemu-kvm; do [ ! -e $d/$f ] || cp -L $d/$f "$2/lib/"; done
done`

// measured makes a folder with package init, and an archive that has it as its first process. The caller removes it.
func measured(ctx context.Context) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "rival-"); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	init := filepath.Join(dir, "init")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", init, "./hack/rival/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's init: %w: %s", err, out)
	}
	f, err := os.Create(filepath.Join(dir, "initramfs"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	contents := images.Initramfs{Agent: &images.Agent{Path: init}}
	return dir, contents.Write(f)
}

func shell(ctx context.Context, host *guest.LabHost, script string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	status, err := host.Exec(ctx, &lab.Options{Args: append([]string{"sh", "-ec", script, "sh"}, args...), Stdout: &stdout, Stderr: &stderr})
	if err == nil && status.ExitCode() != 0 {
		err = fmt.Errorf("%s: %v: %s", script, status, stderr.String())
	}
	return stdout.String(), err
}

// measure runs one VMM; its guest must reach userspace.
func measure(ctx context.Context, host *guest.LabHost, args []string) (time.Duration, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var output bytes.Buffer
	stdin, never := io.Pipe() // a VMM whose input ends may end with it
	defer never.Close()
	start := time.Now()
	_, err := host.Exec(ctx, &lab.Options{Args: args, Stdin: stdin, Stdout: &output, Stderr: &output})
	took := time.Since(start)
	if err == nil && !strings.Contains(output.String(), "userspace") {
		err = fmt.Errorf("the guest did not reach userspace: %s", output.String())
	}
	return took, output.String(), err
}
