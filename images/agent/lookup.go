package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// lookPath finds a command as a shell does: a name with a slash is a path, relative
// to dir, any other is looked for in path's folders. The error is an *agentproto.Error.
func lookPath(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if err := checkExecutable(absolute(name, dir)); err != nil {
			return "", lookupError(name, err)
		}
		return name, nil
	}
	found := error(fs.ErrNotExist)
	for _, folder := range filepath.SplitList(path) {
		file := absolute(filepath.Join(folder, name), dir)
		err := checkExecutable(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			found = err
		}
	}
	return "", lookupError(name, found)
}

// uRootProgram is the file that all commands of a u-root userland link to.
const uRootProgram = "bb"

// arguments returns args for the program at path: the same, except that u-root's program is called by
// its path. Called as "sh" it would not know itself; by the path it finds what /bin/sh links to.
func arguments(path string, args []string) []string {
	file, err := filepath.EvalSymlinks(path)
	if err != nil || filepath.Base(file) != uRootProgram {
		return args
	}
	return append([]string{path}, args[1:]...)
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func checkExecutable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return unix.EISDIR
	case info.Mode().Perm()&0o111 == 0:
		return fs.ErrPermission
	}
	return nil
}

// lookupError says why there is no program of that name. One that was looked for in PATH and is not there has no error number, as
// with os/exec.
func lookupError(name string, err error) error {
	e := &agentproto.Error{Kind: agentproto.NotExecutable}
	if strings.Contains(name, "/") || !errors.Is(err, fs.ErrNotExist) {
		errors.As(err, &e.Errno)
		e.Op, e.Path = opExec, name
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	e.Message = name + ": " + err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		e.Kind, e.Message = agentproto.NotFound, name+": command not found"
	case errors.Is(err, unix.EISDIR):
		e.Errno = unix.EACCES // execve's word for it
	case e.Errno == 0 && errors.Is(err, fs.ErrPermission):
		e.Errno = unix.EACCES
	}
	return e
}

// mergeEnv returns base with more added; of several values of one name the last wins.
func mergeEnv(base, more []string) []string {
	merged := slices.Clone(base)
	for _, kv := range more {
		name, _, _ := strings.Cut(kv, "=")
		merged = slices.DeleteFunc(merged, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		merged = append(merged, kv)
	}
	return merged
}

func getEnv(env []string, name string) string {
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}
