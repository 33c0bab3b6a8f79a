package vmtest

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stile-vmm/stile/internal/session"
)

// WriteFile writes a file in the guest, which appears at once and whole; folders above it are made. A device, or a file of the
// kernel's (a sysctl, sysfs), is written to with one write. A relative path starts in the folder in which commands run.
func (vm *VM) WriteFile(ctx context.Context, path string, data []byte, perm fs.FileMode) error {
	if err := vm.present(); err != nil {
		return err
	}
	return vm.explain(vm.session.Push(ctx, vm.path(path), perm, int64(len(data)), bytes.NewReader(data)))
}

// maxReadFile bounds ReadFile, in bytes.
const maxReadFile = 1 << 30

// ReadFile returns a regular file of the guest, of at most 1 GiB, read to its end: also of procfs and sysfs.
func (vm *VM) ReadFile(ctx context.Context, path string) ([]byte, error) {
	if err := vm.present(); err != nil {
		return nil, err
	}
	var data bytes.Buffer
	if _, err := vm.session.PullSome(ctx, vm.path(path), &data, maxReadFile); err != nil {
		return nil, vm.explain(err)
	}
	return data.Bytes(), nil
}

// Push copies a file of this host to the guest, with its permissions.
func (vm *VM) Push(ctx context.Context, from, to string) error {
	if err := vm.present(); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = &fs.PathError{Op: "push", Path: from, Err: syscall.EISDIR}
	}
	if err != nil {
		return err
	}
	return vm.explain(vm.session.Push(ctx, vm.path(to), info.Mode().Perm(), -1, f))
}

// Pull copies a regular file of the guest, of at most 4 GiB, to this host, with its permissions.
func (vm *VM) Pull(ctx context.Context, from, to string) error {
	if err := vm.present(); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".stile-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it was renamed
	defer f.Close()
	mode, err := vm.session.Pull(ctx, vm.path(from), f)
	if err != nil {
		return vm.explain(err)
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
}

// PullFolder copies the regular files below a folder of the guest into a folder of this host, which is made. Links and
// devices are left out. A folder that is not there is an empty one. Files that can't be read, as some of sysfs, are named by the
// error; all others are copied then, too.
func (vm *VM) PullFolder(ctx context.Context, from, to string) error {
	if err := vm.present(); err != nil {
		return err
	}
	return vm.explain(vm.session.PullTree(ctx, session.Tree{From: vm.path(from), To: to}))
}

func (vm *VM) path(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(vm.dir, path)
}
