package vmtest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testrun"
)

// The go command keeps a test's result until a variable or a file that the test has looked at is another. Of files it counts those whose
// names begin with the module's folder, as they are written: a name that leads out of there again is one.

// lookAtInputs looks at what a VM is made of, so that its tests run again when that is another.
func lookAtInputs(ctx context.Context, s guest.Spec) {
	for _, name := range inputNames(ctx, s) {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			if f, err := os.Open(name); err == nil { // what is in it counts then
				f.Close()
			}
		}
	}
}

// logInputs is lookAtInputs for a test binary that has run in the VM: it adds to the log of what that has looked at, which the go command
// reads (internal/testlog). A run without a log is one whose result is not kept.
func logInputs(ctx context.Context, s guest.Spec, args []string) error {
	path := testrun.ParseFlags(args).TestLog()
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the binary did not come so far
	}
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, name := range inputNames(ctx, s) {
		lines.WriteString("stat " + name + "\n")
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			lines.WriteString("open " + name + "\n")
		}
	}
	_, err = f.WriteString(lines.String())
	return errors.Join(err, f.Close())
}

// inputNames returns the names, in the module, of what a VM is made of. Where that can't be found out the VM's start says why.
func inputNames(ctx context.Context, s guest.Spec) []string {
	root := moduleRoot()
	paths, err := s.Inputs(ctx)
	if root == "" || err != nil {
		return nil
	}
	var names []string
	for _, path := range paths {
		if path, err = filepath.Abs(path); err == nil && !strings.Contains(path, "\n") {
			names = append(names, nameInModule(root, path))
		}
	}
	return names
}

// nameInModule returns a name for an absolute path that begins with the module's folder.
func nameInModule(root, path string) string {
	if strings.HasPrefix(path, root+"/") {
		return path
	}
	return root + strings.Repeat("/..", strings.Count(root, "/")) + path
}

// moduleRoot returns the folder of the tests' module, whose packages the go command runs in their own folders; "" where there is none.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil && info.Mode().IsRegular() {
			return dir
		}
		if dir == "/" {
			return ""
		}
	}
}
