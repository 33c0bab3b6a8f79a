package modprobe

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/kmod"
)

// Programs returns the names by which Main can be called.
func Programs() []string { return []string{"modprobe", "insmod", "rmmod", "lsmod"} }

// Main runs the program that args[0] names, and returns its exit status.
func Main(args []string) int {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // without a release there are no modules
	s := &system{
		root: "/", release: unix.ByteSliceToString(uts.Release[:]), kernel: running{},
		stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ(),
	}
	name := filepath.Base(args[0])
	return s.run(name, args[1:])
}

// system is what modules are loaded into.
type system struct {
	root    string // "/" but in tests
	release string
	kernel  kernel
	stdout  io.Writer
	stderr  io.Writer
	environ []string
}

// kernel is what does the work.
type kernel interface {
	// load loads a module's file, which may be compressed. flags are those of finit_module(2).
	load(path, params string, flags int) error
	unload(name string, flags int) error
	// shell runs a command of modprobe.d(5).
	shell(command string, environ []string) error
}

// path returns where a path of the system is.
func (s *system) path(names ...string) string {
	return filepath.Join(append([]string{s.root}, names...)...)
}

func (s *system) run(name string, args []string) int {
	switch name {
	case "modprobe":
		return s.modprobe(args)
	case "insmod":
		return s.insmod(args)
	case "rmmod":
		return s.rmmod(args)
	case "lsmod":
		return s.lsmod()
	}
	fmt.Fprintf(s.stderr, "%s: unknown program; expected one of %v\n", name, Programs())
	return 1
}

// running is the kernel that runs.
type running struct{}

func (running) load(path, params string, flags int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !kmod.Compressed(path) {
		return unix.FinitModule(int(f.Fd()), params, flags)
	}
	err = unix.FinitModule(int(f.Fd()), params, flags|unix.MODULE_INIT_COMPRESSED_FILE)
	if !slices.Contains([]error{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS}, err) {
		return err
	}
	// This kernel does not uncompress (before 5.17, or without CONFIG_MODULE_DECOMPRESS), or not in this way.
	content, err := kmod.Read(path)
	if err != nil {
		return err
	}
	if flags == 0 {
		return unix.InitModule(content, params)
	}
	return loadContent(content, params, flags)
}

// loadContent loads a module with flags, which only a file can be loaded with.
func loadContent(content []byte, params string, flags int) error {
	fd, err := unix.MemfdCreate("module", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "module")
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return unix.FinitModule(fd, params, flags)
}

func (running) unload(name string, flags int) error { return unix.DeleteModule(name, flags) }

func (running) shell(command string, environ []string) error {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Env = environ
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
