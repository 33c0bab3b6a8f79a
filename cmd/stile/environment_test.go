package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeletedDirectory: a current directory that is gone matters only to a command that would start in it.
func TestDeletedDirectory(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		flags     string
		dir, nest string // of the command, and of the nested stile that would run it
		refused   bool
	}{
		{"--cwd /tmp", "/tmp", "/", false},
		{"--root none", "", "/", false},
		{"--root uroot --cwd sub", "sub", "/", false},
		{"", "", "", true},
		{"--cwd sub", "", "", true},
	} {
		f := &runFlags{}
		if err := flagSet(f).Parse(strings.Fields(tt.flags)); err != nil {
			t.Fatal(err)
		}
		dir, err := f.workDir()
		nest, nestErr := currentDir(f.startsHere())
		if dir != tt.dir || nest != tt.nest {
			t.Errorf("%q starts in %q and %q, want %q and %q", tt.flags, dir, nest, tt.dir, tt.nest)
		}
		for _, err := range []error{err, nestErr} {
			if (err != nil) != tt.refused || err != nil && !strings.Contains(err.Error(), "was deleted: change to another") {
				t.Errorf("%q: %v", tt.flags, err)
			}
		}
	}
}
