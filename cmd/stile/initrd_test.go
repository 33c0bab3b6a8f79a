package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWarnOfInitrds(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for name, text := range map[string]string{"cpio": "070701", "squashfs": "hsqs"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+strings.Repeat("\x00", 512)), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	var out bytes.Buffer
	warnOfInitrds(&out, append(paths, filepath.Join(dir, "none")))
	if got := out.String(); strings.Count(got, "warning:") != 1 || !strings.Contains(got, "-i "+filepath.Join(dir, "squashfs")+" is not a cpio") {
		t.Errorf("warned %q", got)
	}
}
