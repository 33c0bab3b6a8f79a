// Command folders tries folders of the host in a guest. "write FILE" writes a file; "all RO RW COW" tries what programs do with
// files, and says of each thing whether it works, also what takes long where STILE_SOAK is set; "locked" and "mapped" are the
// second process of two of these.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// check is one thing that must work in a writable folder of its own.
type check struct {
	name  string
	tools []string // what it takes
	long  bool     // more time than others have
	try   func(dir string) error
}

func main() {
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "write":
		err = os.WriteFile(args[0], []byte("from the guest\n"), 0o644)
	case "locked":
		err = locked(args[0])
	case "mapped":
		err = mapped(args[0])
	case "all":
		all(args[0], args[1], args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func all(ro, rw, cow string) {
	say("read only", readOnly(ro))
	say("copy on write", copyOnWrite(cow))
	say("special files of copy on write", specialFiles(cow))
	say("nested", nested(ro, rw))
	say("many entries", manyEntries(filepath.Join(rw, "many")))
	for _, c := range append(fileChecks, programChecks...) {
		if why := c.missing(); why != "" {
			fmt.Printf("missing %s: %s\n", c.name, why)
			continue
		}
		dir := filepath.Join(rw, strings.ReplaceAll(c.name, " ", "-"))
		start := time.Now()
		say(c.name, errors.Join(os.Mkdir(dir, 0o755), c.try(dir)))
		fmt.Fprintln(os.Stderr, c.name, time.Since(start).Round(time.Millisecond))
	}
}

func say(name string, err error) {
	if err != nil {
		fmt.Printf("wrong %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	fmt.Println("right", name)
}

// missing returns what the check lacks, and why: "" for nothing.
func (c check) missing() string {
	if c.long && os.Getenv("STILE_SOAK") == "" {
		return "time: STILE_SOAK is not set"
	}
	for _, tool := range c.tools {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + ": " + err.Error()
		}
	}
	return ""
}

// readOnly finds the host's file and can't change it.
func readOnly(dir string) error {
	file := filepath.Join(dir, "file")
	if b, err := os.ReadFile(file); err != nil || string(b) != "from the host\n" {
		return fmt.Errorf("%q, %w", b, err)
	}
	for _, err := range []error{os.WriteFile(file, nil, 0), os.Remove(file), os.Mkdir(file+"2", 0o755), os.Chmod(file, 0), os.Rename(file, file+"2")} {
		if !errors.Is(err, errReadOnly) {
			return fmt.Errorf("a change: %w", err)
		}
	}
	return nil
}

// copyOnWrite changes everything; the test looks whether the host's files are as they were.
func copyOnWrite(dir string) error {
	file := filepath.Join(dir, "file")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("more\n"); err != nil {
		return err
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "from the host\nmore\n" {
		return fmt.Errorf("%q, %w", b, err)
	}
	return errors.Join(os.Rename(file, file+"2"), os.Mkdir(file, 0o755), os.RemoveAll(filepath.Join(dir, "folder")))
}

// manyEntries lists a folder of the host in which each file has a number for its name, and the one called "entries" says how many
// there are.
func manyEntries(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "entries"))
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, e := range list {
		seen[e.Name()] = true
	}
	if len(list) != want+1 || len(seen) != want+1 || !seen["0"] || !seen[strconv.Itoa(want-1)] {
		return fmt.Errorf("%d entries, %d names, want %d", len(list), len(seen), want+1)
	}
	return nil
}

// nested finds the writable folder within the read-only one, and the guest's own paths of both.
func nested(ro, rw string) error {
	inside := filepath.Join(ro, "inside")
	if err := os.WriteFile(filepath.Join(inside, "nested"), nil, 0o644); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(rw, "nested"))
	return err
}
