// Command disk tries disks with Linux's driver: "guest" in a guest, "host" on the host of it, whose part is to run stile and
// to do what happens to disks from outside. The guest asks for that by a line of output.
package main

import (
	"fmt"
	"os"
)

// The disks by serial number.
const (
	block = "block" // a block device of the host
	grows = "grows" // an image of smallSize bytes, which gets largeSize and is cut to smallSize behind stile's back
	full  = "full"  // an image of fullSize bytes on a file system that has half of that
)

const (
	smallSize = 4 << 20
	largeSize = 12 << 20
	fullSize  = 4 << 20
)

// What the guest asks the host for.
const (
	askGrow = "grow"
	askCut  = "cut"
)

func main() {
	modes := map[string]func([]string) error{"guest": guest, "host": host}
	if err := modes[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		os.Exit(1)
	}
	fmt.Println("all", os.Args[1], "right")
}
