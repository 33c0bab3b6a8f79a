package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/stile-vmm/stile/internal/testenv"
)

// fixture is what the tests with QEMU share: the agent's binary, and a cache whose state the first of
// them builds.
type fixture struct {
	once  sync.Once
	dir   string
	image *Image
	err   error
}

var shared fixture

func TestMain(m *testing.M) {
	if os.Getenv(envVictim) != "" {
		victim()
		return
	}
	code := m.Run()
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// testConfig returns a configuration that uses the shared cache, or skips the test.
func testConfig(t *testing.T) *Config {
	t.Helper()
	testenv.Short(t)
	if _, err := FindQEMU(); err != nil {
		testenv.Missing(t, "lab", err.Error())
	}
	shared.once.Do(shared.make)
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &Config{Dir: shared.dir, Image: shared.image, Progress: testWriter{t}}
}

func (f *fixture) make() {
	if f.dir, f.err = os.MkdirTemp("", "stile-lab-test-"); f.err != nil {
		return
	}
	f.image, f.err = makeImage(f.dir)
}

func makeImage(dir string) (*Image, error) {
	agent := filepath.Join(dir, "agent")
	build := exec.Command("go", "build", "-o", agent, "github.com/stile-vmm/stile/images/agent/cmd/stile-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the agent: %w: %s", err, out)
	}
	kernel, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gokrazy/kernel.amd64").Output()
	if err != nil {
		return nil, fmt.Errorf("find the kernel: %w", err)
	}
	return &Image{
		Kernel: filepath.Join(strings.TrimSpace(string(kernel)), "vmlinuz"),
		Agent:  agent,
		Initramfs: func(w io.Writer) error {
			data, err := os.ReadFile(agent)
			if err != nil {
				return err
			}
			archive := cpio.Newc.Writer(w)
			if err := archive.WriteRecord(cpio.StaticFile("init", string(data), 0o755)); err != nil {
				return err
			}
			return cpio.WriteTrailer(archive)
		},
	}, nil
}

// testWriter writes to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
