// Command rival runs kvmtool with the default kernel in the lab's nested host, to be
// compared with stile in the same place: rival LKVM. The guest's init ends it at once.
package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/images/agent"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/lab"
)

func main() {
	guest.MaybeHelper()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rival LKVM")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "rival:", err)
		os.Exit(1)
	}
}

func run(lkvm string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	lkvm, err := filepath.Abs(lkvm)
	if err != nil {
		return err
	}
	initramfs, err := emptyInitramfs()
	if err != nil {
		return err
	}
	defer os.Remove(initramfs)
	cache, err := images.Open("")
	if err != nil {
		return err
	}
	kernel, err := cache.DefaultKernel(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	host, err := guest.ResumeLab(ctx, guest.Spec{}, guest.LabSpec{}, os.Stderr)
	if err != nil {
		return err
	}
	defer host.Close()
	// The kernel has no /init to run and panics, which resets it: start to userspace to end.
	_, err = host.Host.Run(ctx, &lab.Options{Dir: path.Clean(agent.Preloaded), Args: []string{
		lkvm, "run", "-k", kernel, "-i", initramfs, "-m", "512", "-c", "1", "--console", "serial",
		"-p", "console=ttyS0 quiet noxsave panic=-1 loop.max_loop=0 rodata=off mitigations=off",
	}})
	fmt.Printf("lkvm: %d ms\n", time.Since(start).Milliseconds())
	return err
}

// emptyInitramfs writes an archive whose /init is no program.
func emptyInitramfs() (string, error) {
	f, err := os.CreateTemp("", "rival-*.cpio")
	if err != nil {
		return "", err
	}
	defer f.Close()
	contents := images.Initramfs{Files: []images.File{{Name: "/note", Mode: 0o644, Content: []byte("nothing to run")}}}
	return f.Name(), contents.Write(f)
}
