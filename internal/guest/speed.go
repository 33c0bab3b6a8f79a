package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/stile-vmm/stile/images"
	"github.com/stile-vmm/stile/kvm"
)

// rememberSpeed measures once for each boot, processor and state of the kernel's KVM modules. Where it can't be
// remembered, it is measured each time: that takes milliseconds.
func rememberSpeed(measure func() (kvm.Speed, error)) (kvm.Speed, error) {
	cache, err := images.Open("")
	key := speedKey("/")
	if err != nil || key == "" {
		return measure()
	}
	if path, ok := cache.Lookup(images.KindSpeed, key); ok {
		var saved kvm.Speed
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &saved) == nil {
			return saved, nil
		}
	}
	speed, err := measure()
	if err != nil {
		return kvm.Speed{}, err
	}
	if text, err := json.Marshal(speed); err == nil {
		_, _ = cache.Replace(context.Background(), images.KindSpeed, key, func(w *os.File) error {
			_, err := w.Write(text)
			return err
		})
	}
	return speed, nil
}

// speedKey changes with all that makes KVM faster or slower: the modules can be loaded anew with other parameters, and a
// virtual machine that has KVM can be moved to another processor while it runs. It is "" where the boot has no name.
func speedKey(root string) string {
	boot, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/random/boot_id"))
	if err != nil || len(boot) == 0 {
		return ""
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", boot, firstProcessor(root))
	for _, name := range []string{"srcversion", "parameters/ept", "parameters/npt", "parameters/tdp_mmu"} {
		files, _ := filepath.Glob(filepath.Join(root, "sys/module/kvm*", name)) // sorted
		for _, file := range files {
			text, _ := os.ReadFile(file)
			fmt.Fprintf(sum, "%q %q\n", file[len(root):], text)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// firstProcessor returns the start of /proc/cpuinfo, which names vendor, model and microcode; a current frequency follows.
func firstProcessor(root string) []byte {
	f, err := os.Open(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return nil
	}
	defer f.Close()
	start, _ := io.ReadAll(io.LimitReader(f, 512))
	names, _, _ := bytes.Cut(start, []byte("cpu MHz"))
	return names
}
