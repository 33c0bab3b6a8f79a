package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/guest"
)

// missingError says that a command is not in the guest, which needs no guest to find out.
type missingError struct {
	command string
	hint    string
}

func (e *missingError) Error() string {
	return fmt.Sprintf("command %q: not found in PATH, which the guest shares with this host%s", e.command, e.hint)
}

// exitNotFound is a shell's status for a command that is not there.
const exitNotFound = 127

// findCommand returns an error if the command is surely not in a guest that sees this host's files: the name of a program that is nowhere in
// PATH. A shared folder or another user may change what PATH finds, and a folder that can't be searched here may hold it.
func (f *runFlags) findCommand() error {
	if f.spec.Root != guest.RootHost || guest.Nested() || len(f.args) == 0 || strings.Contains(f.args[0], "/") || len(f.spec.Folders) > 0 || f.user != "" {
		return nil
	}
	if f.args[0] == "stile" || f.spec.Offers(f.args[0]) {
		return nil // the lab has it in its PATH; the agent has them
	}
	for _, e := range f.env {
		if e == "PATH" || strings.HasPrefix(e, "PATH=") {
			return nil
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) || strings.HasPrefix(dir, "/run/") || strings.HasPrefix(dir, "/dev/") || strings.HasPrefix(dir, "/proc/") {
			return nil // the guest's may be another
		}
		if _, err := os.Stat(filepath.Join(dir, f.args[0])); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil
		}
	}
	return &missingError{f.args[0], oneWord(f.args)}
}

// oneWord returns advice for a command line that was given as one word.
func oneWord(args []string) string {
	words := strings.Fields(args[0])
	if len(args) != 1 || len(words) < 2 {
		return ""
	}
	return fmt.Sprintf("; it is one word: write stile run -- %s, or stile run -- sh -c '%s'", strings.Join(words, " "), args[0])
}

// explainStart adds that advice to the error of a command that could not be started.
func explainStart(args []string, err error) error {
	var start *agentproto.Error
	if hint := oneWord(args); hint != "" && errors.As(err, &start) && start.Kind == agentproto.NotFound {
		return fmt.Errorf("%w%s", err, hint)
	}
	return err
}

// checkShorts refuses -it, as other tools have it: -i would take the t for the name of a file.
func (f *runFlags) checkShorts() error {
	for _, path := range f.spec.Initramfs {
		if path != "t" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return errors.New("-it: -i takes an initramfs's path, and standard input always reaches the command; -t alone gives it a terminal")
		}
	}
	return nil
}
