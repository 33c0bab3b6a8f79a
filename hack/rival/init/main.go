// Command init is the first process of a guest that is only measured: it says that it runs, and resets the machine.
package main

import (
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	_, _ = os.Stdout.WriteString("userspace\n")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
