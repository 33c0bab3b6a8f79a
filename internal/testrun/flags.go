// Package testrun runs a Go test binary in a guest as the go command runs it here: same folder, same environment,
// and what it writes for the go command (profiles, coverage, the log by which results are cached, artifacts)
// comes back to the same paths.
//
// The guest's root must be a copy-on-write view of this host's: the binary is there by its own path, and writing
// to a path in the guest leaves the file here alone until it is pulled.
package testrun

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrFuzz refuses -fuzz.
var ErrFuzz = errors.New("-fuzz is not possible in a VM: the go command's fuzzing engine starts worker processes and keeps a corpus, " +
	"both outside the guest; the seeds run as ordinary tests without -fuzz")

// Flags are the flags of a test binary that say where it writes, and how long it may run.
type Flags struct {
	set map[string]string // by name without dashes and "test."; a flag without a value is "true"
}

// ParseFlags reads a test binary's arguments as package flag does: up to the first that is no flag. Flags
// of the test itself are looked over; one that takes its value as an argument of its own must
// not be mistaken for a test flag, which the go command never writes that way.
func ParseFlags(args []string) Flags {
	f := Flags{set: make(map[string]string)}
	for i := 0; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "-")
		if !ok || args[i] == "--" {
			continue
		}
		name = strings.TrimPrefix(name, "-")
		name, ours := strings.CutPrefix(name, "test.")
		if !ours {
			continue
		}
		name, value, hasValue := strings.Cut(name, "=")
		switch {
		case hasValue:
		case slices.Contains(boolFlags, name) || i+1 == len(args):
			value = "true"
		default:
			i++
			value = args[i]
		}
		f.set[name] = value
	}
	return f
}

// boolFlags are those of package testing that need no value.
var boolFlags = []string{"v", "short", "failfast", "benchmem", "paniconexit0", "artifacts", "fullpath", "fuzzworker"}

// Lists reports whether the binary only lists its tests.
func (f Flags) Lists() bool { return f.set["list"] != "" }

// Fuzzes reports whether fuzzing is asked for.
func (f Flags) Fuzzes() bool { return f.set["fuzz"] != "" || f.set["fuzzworker"] == "true" }

// Timeout is after which time the binary ends itself, 0 for never.
func (f Flags) Timeout() time.Duration {
	d, err := time.ParseDuration(f.set["timeout"])
	if err != nil {
		return 0
	}
	return d
}

// TestLog is the file by which the go command knows what a cached result depends on, "" for none.
func (f Flags) TestLog() string { return f.set["testlogfile"] }

// fileFlags name files. All but the log are relative to the output folder.
var fileFlags = []string{"coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace", "testlogfile"}

// Files returns what the binary writes, when it runs in dir.
func (f Flags) Files(dir string) []string {
	var files []string
	for _, name := range fileFlags {
		path := f.set[name]
		if path == "" || path == os.DevNull {
			continue
		}
		base := dir
		if name != "testlogfile" {
			base = f.outputDir(dir)
		}
		files = append(files, absolute(path, base))
	}
	return files
}

// Folders returns in which folders the binary writes files of its own names, when it runs in dir.
func (f Flags) Folders(dir string) []string {
	var folders []string
	if cover := f.set["gocoverdir"]; cover != "" {
		folders = append(folders, absolute(cover, dir))
	}
	if on, err := strconv.ParseBool(f.set["artifacts"]); err == nil && on {
		folders = append(folders, filepath.Join(f.outputDir(dir), "_artifacts"))
	}
	return folders
}

func (f Flags) outputDir(dir string) string {
	if f.set["outputdir"] == "" {
		return dir
	}
	return absolute(f.set["outputdir"], dir)
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
