package images

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/boot"
	"github.com/stile-vmm/stile/internal/testenv"
)

func TestMain(m *testing.M) {
	MaybeUnpack() // this binary is its own child
	os.Exit(m.Run())
}

// TestUnpacked unpacks the default kernel in a child, and finds it unpacked the second time.
func TestUnpacked(t *testing.T) {
	p := defaultKernelPin()
	kernel, ok := findInModuleCache(p.Version, kernelFile)
	if !ok {
		testenv.Missing(t, "kernel", "the default kernel is not in the Go module cache")
	}
	c := openTest(t)
	path, err := c.Unpacked(t.Context(), kernel, Unpack{Child: true})
	if err != nil {
		t.Fatal(err)
	}
	k, err := boot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Format() != boot.ELF {
		t.Errorf("unpacked to %v", k.Format())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if again, err := c.Unpacked(ctx, kernel, Unpack{Child: true}); err != nil || again != path {
		t.Errorf("the second time: %q, %v", again, err)
	}
	if same, err := c.Unpacked(ctx, path, Unpack{}); err != nil || same != path {
		t.Errorf("an ELF kernel: %q, %v", same, err)
	}
	if _, err := openTest(t).Unpacked(ctx, kernel, Unpack{Child: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestUnpackedRefuses(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "garbage": "no kernel"} {
		path := writeFile(t, filepath.Join(t.TempDir(), name), []byte(content))
		if _, err := openTest(t).Unpacked(t.Context(), path, Unpack{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestUnpackInUnawareChild ends what a program without MaybeUnpack would go on with for ever.
func TestUnpackInUnawareChild(t *testing.T) {
	t.Setenv(envUnpack, "1")
	if err := unpackInChild(t.Context(), "/no/such", nil); err == nil || !strings.Contains(err.Error(), "MaybeUnpack") {
		t.Errorf("in such a child: %v", err)
	}
}
