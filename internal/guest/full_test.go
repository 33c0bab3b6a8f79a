package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/images"
)

func TestExplainFull(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(images.EnvCache, cache)
	full := func(path string) error {
		return fmt.Errorf("build: %w", &fs.PathError{Op: "write", Path: path, Err: unix.ENOSPC})
	}
	for _, tt := range []struct {
		err  error
		want []string
	}{
		{full(filepath.Join(cache, "kernel", "new")), []string{"no space left on device", "MiB are free on the file system at /", cache, "stile image prune", images.EnvCache}},
		{fmt.Errorf("build: %w", unix.EDQUOT), []string{"quota", cache, images.EnvCache}},
		{full("/proc/nowhere"), []string{"0 MiB are free on the file system at /proc"}},
	} {
		got := ExplainFull(tt.err)
		for _, want := range tt.want {
			if !strings.Contains(got.Error(), want) {
				t.Errorf("%v, without %q", got, want)
			}
		}
		if !errors.Is(got, tt.err) || ExplainFull(got) != got {
			t.Errorf("%v is explained twice, or lost its cause", got)
		}
	}
	if got := ExplainFull(full("/proc/nowhere")); strings.Contains(got.Error(), images.EnvCache) {
		t.Errorf("%v is not about the cache", got)
	}
	for _, err := range []error{nil, unix.EIO, &fs.PathError{Op: "write", Path: cache, Err: unix.EIO}} {
		if got := ExplainFull(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
