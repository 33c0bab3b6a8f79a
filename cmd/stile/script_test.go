package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/internal/testenv"
)

// tools is the folder with the programs that the tests run: stile itself, as make build
// makes it; micro, an /init for guests without the agent; hardware, a driver for devices passed through; network, disk and folders, what tries those.
var tools string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "stile-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	tools = dir
	for _, pkg := range []string{".", "./testdata/micro", "./testdata/hardware", "./testdata/vsock", "./testdata/network", "./testdata/disk", "./testdata/folders", "./testdata/witness"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w: %s", pkg, err, out)
		}
	}
	return m.Run(), nil
}

// TestScripts runs what needs no guest.
func TestScripts(t *testing.T) { runScripts(t, "testdata/script") }

// TestGuestScripts boots guests, on this host or in the lab.
func TestGuestScripts(t *testing.T) {
	needGuests(t)
	runScripts(t, "testdata/guest")
}

// needGuests ends the test where no Linux guest can run.
func needGuests(t *testing.T) {
	t.Helper()
	testenv.Short(t)
	place, _, err := guest.Choose("auto")
	if err != nil {
		testenv.Missing(t, "lab", err.Error())
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); place == guest.InLab && err != nil {
		testenv.Missing(t, "lab", err.Error())
	}
}

// scriptLimit ends scripts that hang: those of a folder take three minutes.
const scriptLimit = 20 * time.Minute

func runScripts(t *testing.T, dir string) {
	cache, err := images.Open("")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		Deadline:           time.Now().Add(scriptLimit),
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", tools+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv(images.EnvCache, cache.Dir())
			e.Setenv("STILE_BINARY", filepath.Join(tools, "stile"))
			e.Setenv("TOOLS", tools)
			for _, name := range []string{"GOPROXY", "GOMODCACHE", "GOPATH", "GOCACHE", "GOFLAGS", "GONOSUMDB", "GONOSUMCHECK", "GOSUMDB"} {
				e.Setenv(name, goEnv(name))
			}
			return makeInitramfs(filepath.Join(e.WorkDir, "micro.cpio"), "micro")
		},
		Condition: func(name string) (bool, error) {
			if name != "soak" {
				return false, fmt.Errorf("condition %q is unknown", name)
			}
			return testenv.Soak(), nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

func goEnv(name string) string {
	out, _ := exec.Command("go", "env", name).Output()
	return strings.TrimSpace(string(out))
}

// makeInitramfs writes an initramfs whose /init is one of the tools, which is there by its own name, too: where there is an agent, it
// is /init.
func makeInitramfs(path, tool string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	source := filepath.Join(tools, tool)
	contents := images.Initramfs{Files: []images.File{{Name: "/init", Mode: 0o755, Source: source}, {Name: "/" + tool, Mode: 0o755, Source: source}}}
	return contents.Write(f)
}

// status runs a command and checks its exit status: status N COMMAND [ARG]...
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARG]...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		got = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}
