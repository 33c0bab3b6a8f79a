package main

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"

	"github.com/stile-vmm/stile/internal/guest"
)

// folder is in memory; of its big file, a hole, nothing is.
const folder = place + "/folder"

// folderDevices are arguments that share it. stile's depend on the mode.
var folderDevices = map[string][]string{
	"kvmtool": {"--9p", folder + ",folder"},
	"QEMU microvm": {
		"-M", "microvm,accel=kvm,rtc=on,pcie=on", "-fsdev", "local,id=folder,security_model=none,path=" + folder,
		"-device", "virtio-9p-pci,fsdev=folder,mount_tag=folder",
	},
}

// folderMode is a way in which the guest's kernel keeps what it has read: stile's flag for it, and the options of v9fs, which are the
// same for all.
type folderMode struct {
	flag, options string
	share         int // of the big file a share of 1/share is read
}

// Linux from 6.4 on reads 4 KiB with each request where it keeps nothing.
var folderModes = []folderMode{{"--rw", "cache=mmap,directio", 64}, {"--cow", "cache=loose", 1}}

// folderFigures are what package init prints.
var folderFigures = regexp.MustCompile(`folder: find_us=(\d+) attributes_us=(\d+) read_us=(\d+)`)

// sharing is a VMM with a shared folder, and what was measured.
type sharing struct {
	name  string
	args  []string
	times [3][]int // µs
}

// compareFolders lets the guest of each VMM go through a folder and read up to mib MiB, and prints medians.
func compareFolders(ctx context.Context, host *guest.LabHost, vmms []*vmm, runs, mib int) error {
	if _, err := shell(ctx, host, `mkdir "$2" && "$1" make "$2"`, program, folder); err != nil {
		return err
	}
	for _, mode := range folderModes {
		size := max(1, mib/mode.share)
		var compared []*sharing
		for _, v := range vmms {
			compared = append(compared, &sharing{name: v.name, args: mode.args(v, size)})
		}
		for range runs {
			for _, s := range compared {
				if err := s.measure(ctx, host); err != nil {
					return fmt.Errorf("%s with a folder: %w", s.name, err)
				}
			}
		}
		fmt.Printf("folder with %s (%s), %d runs in turn, ms, min / median / max: find over 50,000 files; attributes of 500; %d MiB read, 1 MiB at a time\n", mode.flag, mode.options, runs, size)
		for _, s := range compared {
			s.print()
		}
	}
	return nil
}

// args returns v's with the folder. The guest of stile has the agent, which mounts it; package init mounts others'.
func (m folderMode) args(v *vmm, mib int) []string {
	size := fmt.Sprintf("folder_mib=%d", mib)
	if v.name == "stile" {
		return []string{
			v.args[0], "run", "--rng=false", "-m", "256M", "--root", "none", "-k", kernel, "--cow", "/bench=" + path.Dir(program),
			m.flag, "/folder=" + folder, "--env", size, "--", "/bench/init", "folder", "/folder",
		}
	}
	args := slices.Clone(v.args)
	args[len(args)-1] += fmt.Sprintf(" %s folder_options=%s", size, m.options) // of the kernel, which makes them init's environment
	return append(args, folderDevices[v.name]...)
}

func (s *sharing) measure(ctx context.Context, host *guest.LabHost) error {
	_, output, err := measure(ctx, host, s.args)
	m := folderFigures.FindStringSubmatch(output)
	if m == nil {
		return fmt.Errorf("the guest did not measure it: %w: %s", err, output)
	}
	for i := range s.times {
		us, _ := strconv.Atoi(m[i+1]) // digits
		s.times[i] = append(s.times[i], us)
	}
	return nil
}

func (s *sharing) print() {
	fmt.Printf("%-14s", s.name)
	for _, t := range s.times {
		slices.Sort(t)
		fmt.Printf("   %6d / %6d / %6d", t[0]/1000, t[len(t)/2]/1000, t[len(t)-1]/1000)
	}
	fmt.Println()
}
