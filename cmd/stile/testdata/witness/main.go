// Command witness is the init of a guest that another VMM runs: it prints which driver each PCI function has, and ends the guest.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const functions = "/sys/bus/pci/devices"

func main() {
	if err := report(); err != nil {
		fmt.Println("witness:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// report waits for the driver that the kernel's command line names.
func report() error {
	if err := errors.Join(os.MkdirAll("/sys", 0o755), unix.Mount("sysfs", "/sys", "sysfs", 0, "")); err != nil {
		return err
	}
	driver := os.Getenv("witness")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if bound, _ := filepath.Glob("/sys/bus/pci/drivers/" + driver + "/0000:*"); len(bound) > 0 {
			break
		}
	}
	list, err := os.ReadDir(functions)
	if err != nil {
		return err
	}
	for _, f := range list {
		dir := filepath.Join(functions, f.Name())
		vendor, _ := os.ReadFile(dir + "/vendor")
		device, _ := os.ReadFile(dir + "/device")
		bound, _ := os.Readlink(dir + "/driver")
		fmt.Println("function", strings.TrimSpace(string(vendor)), strings.TrimSpace(string(device)), filepath.Base(bound))
	}
	return nil
}
