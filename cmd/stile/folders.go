package main

import (
	"github.com/spf13/pflag"

	"github.com/stile-vmm/stile/internal/guest"
)

// folderFlag adds folders of one mode to the list of all.
type folderFlag struct {
	mode    guest.FolderMode
	folders *[]guest.Folder
}

func (f folderFlag) String() string { return "" }
func (f folderFlag) Type() string   { return "[GUEST=]HOST" }

func (f folderFlag) Set(text string) error {
	folder, err := guest.ParseFolder(f.mode, text)
	if err == nil {
		*f.folders = append(*f.folders, folder)
	}
	return err
}

// addFolderFlags adds the flags that share folders with the guest, in the order in which they are given.
func addFolderFlags(fs *pflag.FlagSet, folders *[]guest.Folder) {
	fs.Var(folderFlag{guest.FolderRO, folders}, "ro", "folder of the host that the guest can read, at the same path or at GUEST; repeatable")
	fs.Var(folderFlag{guest.FolderRW, folders}, "rw", "folder of the host that the guest can change; repeatable")
	fs.Var(folderFlag{guest.FolderCOW, folders}, "cow", "folder of the host whose changes stay in the guest's memory; repeatable")
}
