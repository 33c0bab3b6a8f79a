package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stile-vmm/stile/internal/agentproto"
)

const (
	pciDevices = "sys/bus/pci/devices"
	pciRescan  = "sys/bus/pci/rescan"
	// savedPCI is where a lab's machine keeps its functions' headers while it is saved.
	savedPCI = "/run/stile-pci"
)

// The standard header of a function's config space (PCI 3.0, 6.1), in bytes.
const (
	pciHeader  = 64
	pciCommand = 4
)

const (
	pciLimit    = 20 * time.Second
	pciInterval = 20 * time.Millisecond
)

// savePCI keeps the headers of root's functions in dir.
func savePCI(root, dir string) error {
	entries, err := os.ReadDir(filepath.Join(root, pciDevices))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without PCI
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		header, err := readHeader(filepath.Join(root, pciDevices, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), header, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// restorePCI gives root's functions the headers that savePCI kept in dir, once. QEMU has devices, edu among them, that it
// neither saves nor refuses to save: after the machine was resumed they are as after a reset, without BARs.
func restorePCI(root, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		saved, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = restoreHeader(filepath.Join(root, pciDevices, e.Name()), saved)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore the config space of %s: %w", e.Name(), err)
		}
	}
	return os.RemoveAll(dir)
}

func readHeader(function string) ([]byte, error) {
	f, err := os.Open(filepath.Join(function, "config"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	header := make([]byte, pciHeader)
	_, err = f.ReadAt(header, 0)
	return header, err
}

// restoreHeader writes the words that differ, COMMAND last: it lets the BARs take effect.
func restoreHeader(function string, saved []byte) error {
	now, err := readHeader(function)
	if err != nil || len(saved) != pciHeader || bytes.Equal(now, saved) {
		return err
	}
	f, err := os.OpenFile(filepath.Join(function, "config"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := pciCommand + 8; at < pciHeader; at += 4 {
		if bytes.Equal(now[at:at+4], saved[at:at+4]) {
			continue
		}
		if _, err := f.WriteAt(saved[at:at+4], int64(at)); err != nil {
			return err
		}
	}
	_, err = f.WriteAt(saved[pciCommand:pciCommand+2], pciCommand)
	return err
}

// awaitPCI waits until root has all the functions; some may have been plugged in just now.
func awaitPCI(root string, functions []string) error {
	deadline := time.Now().Add(pciLimit)
	for {
		var missing []string
		for _, bdf := range functions {
			if _, err := os.Stat(filepath.Join(root, pciDevices, bdf)); err != nil {
				missing = append(missing, bdf)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PCI functions that did not appear within %v: %s", pciLimit, strings.Join(missing, ", "))
		}
		// Where hot plug is not the kernel's, it has to be told to look.
		_ = os.WriteFile(filepath.Join(root, pciRescan), []byte("1"), 0o200)
		time.Sleep(pciInterval)
	}
}

// setupPCI brings the functions into the state that s describes.
func setupPCI(s *agentproto.Setup) error {
	if err := restorePCI("/", savedPCI); err != nil {
		return err
	}
	return awaitPCI("/", s.PCI)
}
