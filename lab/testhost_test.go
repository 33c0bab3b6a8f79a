package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/internal/testenv"
)

// fixture is what the tests with QEMU share: the image, and a cache with a saved state.
type fixture struct {
	once  sync.Once
	dir   string
	image *Image
	err   error

	progress string // what was said when the state was built
}

var shared fixture

func TestMain(m *testing.M) {
	if text := os.Getenv(envVictim); text != "" {
		if err := victim(text); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
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
	shared.once.Do(func() { shared.err = shared.build(t.Context()) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &Config{Dir: shared.dir, Image: shared.image, Progress: testWriter{t}}
}

// build makes the cache. There is a state in it at first that looks well and that QEMU refuses.
func (f *fixture) build(ctx context.Context) (err error) {
	if f.dir, err = os.MkdirTemp("", "stile-lab-test-"); err != nil {
		return err
	}
	if f.image, err = testImage(ctx); err != nil {
		return err
	}
	var progress strings.Builder
	c := &Config{Dir: f.dir, Image: f.image, Progress: &progress}
	if err := plantNonsense(c); err != nil {
		return err
	}
	h, err := Resume(ctx, c)
	if err != nil {
		return err
	}
	f.progress = progress.String()
	return h.Close()
}

func plantNonsense(c *Config) error {
	p, err := c.plan()
	if err != nil {
		return err
	}
	dir, err := p.store.tempDir()
	if err != nil {
		return err
	}
	if err := makeSparse(filepath.Join(dir, ramFile), p.machine.Mem); err != nil {
		return err
	}
	if err := writeState(dir, Meta{Key: p.key, Mem: p.machine.Mem}, []byte("QEVM and nonsense")); err != nil {
		return err
	}
	return p.store.publish(dir, p.key)
}

// testImage returns an image with the small agent: the test's own binary may be dynamic.
func testImage(ctx context.Context) (*Image, error) {
	cache, err := images.Open("")
	if err != nil {
		return nil, err
	}
	kernel, err := cache.DefaultKernel(ctx)
	if err != nil {
		return nil, err
	}
	agent, err := cache.Agent(ctx, images.AgentOptions{})
	if err != nil {
		return nil, err
	}
	return withAgent(&Image{Kernel: kernel, Agent: agent.Path}), nil
}

func withAgent(i *Image) *Image {
	contents := &images.Initramfs{Agent: &images.Agent{Path: i.Agent}}
	i.Initramfs = func(w io.Writer) error { return contents.Write(w) }
	return i
}

// testWriter writes to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// envVictim makes the test binary a process that resumes a host and waits to be killed.
const envVictim = "STILE_LAB_TEST_VICTIM"

// victimSpec is envVictim's value, in JSON.
type victimSpec struct{ Dir, Kernel, Agent, QEMU string }

// victim prints QEMU's process number as soon as the machine runs.
func victim(text string) error {
	var spec victimSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	c := &Config{Dir: spec.Dir, Image: withAgent(&Image{Kernel: spec.Kernel, Agent: spec.Agent})}
	if spec.QEMU != "" {
		q, err := openQEMU(spec.QEMU)
		if err != nil {
			return err
		}
		c.QEMU = q
	}
	h, err := Resume(context.Background(), c)
	if err != nil {
		return err
	}
	fmt.Println(h.proc.child.PID())
	<-h.proc.child.Done()
	return errors.Join(errors.New("QEMU ended first"), h.Err())
}
