package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images/agent/modprobe"
)

// ProgramDir is where a guest has programs for kernel modules that its root lacks. It ends the commands' PATH then.
const ProgramDir = "/run/stile/kmod"

// programFile is this program in ProgramDir; the names of modprobe.Programs are links to it.
const programFile = ProgramDir + "/kmod"

// Offers reports whether guests have a program even if their root has not, as long as their kernel takes modules.
func Offers(program string) bool { return slices.Contains(modprobe.Programs(), program) }

// maybeProgram runs the program that this process was started as, and does not return then.
func maybeProgram() {
	if !Offers(filepath.Base(os.Args[0])) {
		return
	}
	if exe, err := os.Readlink("/proc/self/exe"); err != nil || exe != programFile {
		return
	}
	os.Exit(modprobe.Main(os.Args))
}

// sbin is where a root has modprobe, for users whose PATH has no such folders, too.
const sbin = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

// kernelModprobe is the file with the path of the program that the kernel has modules loaded by (Documentation/admin-guide/sysctl/kernel.rst).
// A kernel without modules has none.
const kernelModprobe = "/proc/sys/kernel/modprobe"

// offerPrograms gives the kernel and the commands the programs for modules that they don't find. It returns the commands' environment.
func offerPrograms(env []string) ([]string, error) {
	helper, err := os.ReadFile(kernelModprobe)
	if errors.Is(err, fs.ErrNotExist) {
		return env, nil
	}
	if err != nil {
		return env, err
	}
	path := getEnv(mergeEnv(defaultEnv(), env), "PATH")
	links := lackingPrograms(path, sbin)
	if len(links) > 0 {
		env = mergeEnv(env, []string{"PATH=" + strings.TrimPrefix(path+":"+ProgramDir, ":")})
	}
	helpless := checkExecutable(strings.TrimSpace(string(helper))) != nil
	if len(links) == 0 && !helpless {
		return env, nil
	}
	if err := makePrograms(links); err != nil || !helpless {
		return env, err
	}
	helperLink := ProgramDir + "/modprobe"
	if err := os.Symlink(programFile, helperLink); err != nil && !errors.Is(err, fs.ErrExist) {
		return env, err
	}
	return env, os.WriteFile(kernelModprobe, []byte(helperLink), 0)
}

// lackingPrograms returns the programs that are not in the folders of path, and what they are to be links to: those in the folders of
// others, or this program.
func lackingPrograms(path, others string) map[string]string {
	links := make(map[string]string)
	for _, name := range modprobe.Programs() {
		if _, err := lookPath(name, path, "/"); err == nil {
			continue
		}
		links[name] = programFile
		if found, err := lookPath(name, others, "/"); err == nil {
			links[name] = found
		}
	}
	return links
}

// makePrograms makes this program's file, and links in ProgramDir. The initramfs, which the file is in, is out of sight.
func makePrograms(links map[string]string) error {
	if err := os.MkdirAll(ProgramDir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(programFile, nil, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(ownProgram, programFile, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "bind this program", Path: programFile, Err: err}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(ProgramDir, name)); err != nil {
			return fmt.Errorf("offer %s: %w", name, err)
		}
	}
	return nil
}
