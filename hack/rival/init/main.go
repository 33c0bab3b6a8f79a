// Command init is the first process of a guest that is only measured: it says that it runs, measures a disk, a network or
// a shared folder where there is one, and resets the machine. "serve ADDRESS" is the host's end of that network, "make DIR" fills a
// folder, "folder DIR" measures one that is mounted.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		work := map[string]func(string) error{"serve": serveNet, "make": makeFolder, "folder": measureFolder}[os.Args[1]]
		if err := work(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	_, _ = os.Stdout.WriteString("userspace\n")
	if err := measureDisk(); err != nil {
		fmt.Println("disk:", err)
	}
	if err := measureNet(); err != nil {
		fmt.Println("net:", err)
	}
	if err := measureShared(); err != nil {
		fmt.Println("folder:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

const (
	sequential  = 1 << 20 // bytes a read
	random      = 4096    // bytes a read
	randomReads = 1000
)

// measureDisk reads a disk from start to end, and then at random, past the guest's page cache.
func measureDisk() error {
	_ = os.Mkdir("/dev", 0o755)
	_ = unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, "") // may be there
	fd, err := unix.Open("/dev/vda", unix.O_RDONLY|unix.O_DIRECT, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	size, err := unix.Seek(fd, 0, 2)
	if err != nil {
		return err
	}
	buf, err := unix.Mmap(-1, 0, sequential, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	begin := time.Now()
	for off := int64(0); off < size; off += sequential {
		if _, err := unix.Pread(fd, buf, off); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	places := rand.New(rand.NewPCG(1, 2))
	begin = time.Now()
	for range randomReads {
		if _, err := unix.Pread(fd, buf[:random], places.Int64N(size/random)*random); err != nil {
			return err
		}
	}
	fmt.Printf("disk: sequential_us=%d random_us=%d\n", took.Microseconds(), time.Since(begin).Microseconds()/randomReads)
	return nil
}
