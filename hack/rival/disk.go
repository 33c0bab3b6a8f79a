package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/stile-vmm/stile/internal/guest"
)

const (
	// diskImage is a sparse file in memory: what is measured is the way from the guest's driver to the file and back.
	diskImage = place + "/disk"
	diskSize  = 256 << 20 // bytes
)

// qemuDisk gives QEMU the disk with its defaults for raw images.
var qemuDisk = []string{
	"-M", "microvm,accel=kvm,rtc=on,pcie=on", "-drive", "file=" + diskImage + ",format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk,romfile=",
}

// figures are what package init prints.
var figures = regexp.MustCompile(`disk: sequential_us=(\d+) random_us=(\d+)`)

// compareDisks lets the guest of each VMM read a disk and prints medians.
func compareDisks(ctx context.Context, host *guest.LabHost, vmms []*vmm, runs int) error {
	if _, err := shell(ctx, host, `truncate -s "$2" "$1"`, diskImage, fmt.Sprint(diskSize)); err != nil {
		return err
	}
	sequential, random := make([][]int, len(vmms)), make([][]int, len(vmms))
	for range runs {
		for i, v := range vmms {
			_, output, err := measure(ctx, host, append(slices.Clone(v.args), v.disk...))
			if err != nil {
				return fmt.Errorf("%s with a disk: %w", v.name, err)
			}
			m := figures.FindStringSubmatch(output)
			if m == nil {
				return fmt.Errorf("%s: the guest did not measure its disk: %s", v.name, output)
			}
			s, _ := strconv.Atoi(m[1]) // digits
			r, _ := strconv.Atoi(m[2])
			sequential[i], random[i] = append(sequential[i], s), append(random[i], r)
		}
	}
	fmt.Printf("disk of 256 MiB, %d runs in turn, min / median / max: 1 MiB reads from start to end in ms; one 4 KiB read at random in µs\n", runs)
	for i, v := range vmms {
		s, r := sequential[i], random[i]
		slices.Sort(s)
		slices.Sort(r)
		fmt.Printf("%-14s %5d / %5d / %5d   %5d / %5d / %5d\n", v.name,
			s[0]/1000, s[runs/2]/1000, s[runs-1]/1000, r[0], r[runs/2], r[runs-1])
	}
	return nil
}
