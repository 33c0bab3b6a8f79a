package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSplitTestArgs(t *testing.T) {
	c := newTestCommand()
	c.InitDefaultHelpFlag()
	for _, test := range []struct{ args, own, rest string }{
		{"", "", ""},
		{"./...", "", "./..."},
		{"-v ./...", "", "-v ./..."},
		{"--help", "", "--help"},
		{"--cpus 2 --help", "--cpus=2", "--help"},
		{"--cpus=2 -run X --kernel", "--cpus=2", "-run X --kernel"},
		{"--memory 1G --kernel 6.12 -mod=mod .", "--memory=1G --kernel=6.12", "-mod=mod ."},
		{"--cpus", "--cpus", ""},
		{"-memory 1G -kernel=6.12 .", "--memory=1G --kernel=6.12", "."},
		{"-k 6.12 -m 1G -c 2 -v .", "--kernel=6.12 --memory=1G --cpus=2", "-v ."},
		{"-c .", "", "-c ."},
		{"-cpu 1,2 .", "", "-cpu 1,2 ."},
		{"-timeout 5m .", "", "-timeout 5m ."},
		{"--balloon --rw d .", "--balloon=true --rw=d", "."},
	} {
		own, rest := splitTestArgs(c.Flags(), strings.Fields(test.args))
		if !slices.Equal(own, strings.Fields(test.own)) || !slices.Equal(rest, strings.Fields(test.rest)) {
			t.Errorf("%q: %q and %q, want %q and %q", test.args, own, rest, test.own, test.rest)
		}
	}
}

// TestMisplacedFlags: flags of stile behind those of go test are named before anything is built.
func TestMisplacedFlags(t *testing.T) {
	for args, want := range map[string]string{
		". --memory 1G":              "--memory stands behind",
		"./... -memory=1G":           "-memory=1G stands behind",
		"-v -k 6.12 .":               "stile test --kernel=…",
		". -m 1G":                    "stile test --memory=…",
		"-run X -c 2 .":              "stile test --cpus=…",
		"--user nobody .":            "no flag --user, which is one of stile run",
		"-v --timout 5m .":           "",
		". -args --memory 1G -k x":   "",
		". --user x":                 "", // may be the binary's
		"-c -o x.test .":             "",
		"-timeout 5m -cpu 2 -json .": "",
	} {
		err := misplaced(newTestCommand().Flags(), newRunCommand().Flags(), strings.Fields(args))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

// TestFlagsForEachPackage has a go command in stile's PATH tell with what it is run.
func TestFlagsForEachPackage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "test", "-m", "1G", "--rw", "/out=.", "-k", "6.12", "--disk", "d.img,cow", "-v", "./...")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+dir)
	if err := os.WriteFile(filepath.Join(dir, "d.img"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "test\n-exec\n" + filepath.Join(tools, "stile") + " test-exec --memory=1G --kernel=6.12 --rw=/out=" + dir + " --disk=" + dir + "/d.img,cow\n-v\n./...\n"
	if string(out) != want {
		t.Errorf("go is run with\n%s, want\n%s", out, want)
	}
}
