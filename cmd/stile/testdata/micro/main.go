// Command micro is an /init that does one thing, named by the word MICRO=… on the kernel's
// command line, or tells lies in the agent's place.
package main

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	fmt.Println("micro:", os.Getenv("MICRO"))
	switch os.Getenv("MICRO") {
	case "poweroff":
		reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		os.Exit(3) // the end of init is a panic
	case "echo":
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		fmt.Printf("micro: read %q\n", line)
		reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "lie":
		fmt.Println("micro:", lie(os.Getenv("LIAR")))
		time.Sleep(time.Hour)
	case "hang":
		time.Sleep(time.Hour)
	}
	fmt.Println("micro: nothing to do")
	reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

func reboot(cmd int) {
	fmt.Println("reboot:", syscall.Reboot(cmd))
	time.Sleep(time.Hour)
}
