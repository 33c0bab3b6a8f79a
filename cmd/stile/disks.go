package main

import (
	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/vmm"
)

// diskFlag adds disks to a list.
type diskFlag struct{ disks *[]vmm.Disk }

func (f diskFlag) String() string { return "" }
func (f diskFlag) Type() string   { return "PATH[,OPTION]..." }

func (f diskFlag) Set(text string) error {
	d, err := guest.ParseDisk(text)
	if err == nil {
		*f.disks = append(*f.disks, d)
	}
	return err
}

func addDiskFlag(fs *pflag.FlagSet, disks *[]vmm.Disk) {
	fs.Var(diskFlag{disks}, "disk", "image file or block device as /dev/vda and on: PATH[,ro][,cow][,direct][,serial=S][,format=raw|qcow2][,backing=PATH]; "+
		"cow throws changes away, qcow2 needs it or ro; repeatable")
}
