package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/sys"
)

const (
	drivers   = "/sys/bus/virtio/drivers/virtio_blk/"
	patience  = 30 * time.Second
	mountedAt = "/mnt"
)

func guest([]string) error {
	h := asker{bufio.NewReader(os.Stdin)}
	for _, step := range []struct {
		name string
		run  func(asker) error
	}{
		{"resets during parallel I/O", resets}, {"a disk that grows", growing}, {"a host without space", noSpace}, {"a cut image", cut},
	} {
		begin := time.Now()
		if err := step.run(h); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", step.name, time.Since(begin).Round(10*time.Millisecond))
	}
	return nil
}

// asker has the host do something.
type asker struct{ in *bufio.Reader }

func (a asker) ask(what string) error {
	fmt.Println(what)
	if line, err := a.in.ReadString('\n'); err != nil || line != "done\n" {
		return fmt.Errorf("%s: the host says %q, %w", what, line, err)
	}
	return nil
}

// find returns the disk's folder in sysfs.
func find(serial string) (string, error) {
	disks, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return "", err
	}
	for _, d := range disks {
		if got, err := os.ReadFile(d + "/serial"); err == nil && string(got) == serial {
			return d, nil
		}
	}
	return "", fmt.Errorf("no disk has the serial number %q: %q", serial, disks)
}

// open opens the disk past the page cache. O_EXCL would find the disk of before a reset still in use.
func open(serial string) (*os.File, error) {
	dir, err := find(serial)
	if err != nil {
		return nil, err
	}
	return os.OpenFile("/dev/"+filepath.Base(dir), os.O_RDWR|unix.O_DIRECT, 0)
}

// await waits until ok, which the kernel reaches on its own.
func await(what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain for %s", what)
		}
	}
	return nil
}

// resets takes the driver from the disk and gives it back while all queues are at work.
func resets(asker) error {
	dir, err := find(block)
	if err != nil {
		return err
	}
	if queues, err := filepath.Glob(dir + "/mq/*"); err != nil || len(queues) != 2 {
		return fmt.Errorf("queues %v, %w", queues, err)
	}
	device, err := filepath.EvalSymlinks(dir + "/device")
	if err != nil {
		return err
	}
	device = filepath.Base(device)
	all, err := newWorkers()
	if err != nil {
		return err
	}
	for range 3 {
		disk, err := open(block)
		if err != nil {
			return err
		}
		stopped := all.write(disk)
		if err := await("writes", all.busy); err != nil {
			return err
		}
		if err := os.WriteFile(drivers+"unbind", []byte(device), 0); err != nil {
			return err
		}
		stopped()
		if err := os.WriteFile(drivers+"bind", []byte(device), 0); err != nil {
			return err
		}
		if err := await("the disk", func() bool { _, err := find(block); return err == nil }); err != nil {
			return err
		}
		if disk, err = open(block); err != nil {
			return err
		}
		if err := errors.Join(all.verify(disk), disk.Close()); err != nil {
			return err
		}
	}
	disk, err := open(block)
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := all.finish(disk); err != nil {
		return err
	}
	return bothInterrupts(device)
}

// bothInterrupts checks that both queues have interrupted.
func bothInterrupts(device string) error {
	table, err := os.ReadFile("/proc/interrupts")
	if err != nil {
		return err
	}
	for _, queue := range []string{"-req.0", "-req.1"} {
		if interrupts(table, device+queue) == 0 {
			return fmt.Errorf("queue %s has not interrupted: %s", queue, table)
		}
	}
	return nil
}

// interrupts sums up how often an interrupt came to each of two CPUs.
func interrupts(table []byte, name string) (sum int) {
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[len(fields)-1] == name {
			for _, f := range fields[1:3] {
				n, _ := strconv.Atoi(f) // digits
				sum += n
			}
		}
	}
	return sum
}

// fileSystemBlock is in bytes.
const fileSystemBlock = 4096

// growing lets a mounted file system have what the disk gets.
func growing(h asker) error {
	dir, err := find(grows)
	if err != nil {
		return err
	}
	node := "/dev/" + filepath.Base(dir)
	if err := unix.Mount(node, mountedAt, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := h.ask(askGrow); err != nil {
		return err
	}
	want := fmt.Sprintf("%d\n", largeSize/512)
	if err := await("the driver to learn its disk's size", func() bool {
		size, err := os.ReadFile(dir + "/size")
		return err == nil && string(size) == want
	}); err != nil {
		return err
	}
	if err := growFileSystem(mountedAt, largeSize/fileSystemBlock); err != nil {
		return err
	}
	data := make([]byte, smallSize) // more than there was room for
	pattern(data, 1, 1)
	if err := os.WriteFile(mountedAt+"/large", data, 0o644); err != nil {
		return err
	}
	if err := unix.Unmount(mountedAt, 0); err != nil {
		return err
	}
	if err := unix.Mount(node, mountedAt, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount again: %w", err)
	}
	if got, err := os.ReadFile(mountedAt + "/large"); err != nil || !bytes.Equal(got, data) {
		return fmt.Errorf("%d of %d bytes, or others, after the disk grew: %w", len(got), len(data), err)
	}
	return unix.Unmount(mountedAt, 0)
}

// growFileSystem does what resize2fs asks the kernel for; loading that program would take most of the test.
func growFileSystem(path string, blocks uint64) error {
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h)
	dir, err := sys.Open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := sys.IoctlPtr(dir, resizeFS, &blocks); err != nil {
		return fmt.Errorf("grow the file system to %d blocks: %w", blocks, err)
	}
	return nil
}

// noSpace fills an image until the host has no space. What was written until then is there.
func noSpace(asker) error {
	disk, err := open(full)
	if err != nil {
		return err
	}
	defer disk.Close()
	buf, want, err := aligned()
	if err != nil {
		return err
	}
	written := int64(0)
	for ; written*blockSize < fullSize; written++ {
		pattern(buf, written, 1)
		if _, err = disk.WriteAt(buf, written*blockSize); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EIO) || written == 0 {
		return fmt.Errorf("after %d blocks: %w, want %w", written, err, unix.EIO)
	}
	for i := range written {
		if _, err := disk.ReadAt(buf, i*blockSize); err != nil {
			return err
		}
		if pattern(want, i, 1); !bytes.Equal(buf, want) {
			return fmt.Errorf("block %d of %d is not what was written", i, written)
		}
	}
	return nil
}

// cut reads from an image that has lost its end: an error there, and none before it.
func cut(h asker) error {
	disk, err := open(grows)
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := h.ask(askCut); err != nil {
		return err
	}
	buf, _, err := aligned()
	if err != nil {
		return err
	}
	if _, err := disk.ReadAt(buf, smallSize-blockSize); err != nil {
		return err
	}
	if _, err := disk.ReadAt(buf, largeSize-blockSize); !errors.Is(err, unix.EIO) {
		return fmt.Errorf("behind the end: %w, want %w", err, unix.EIO)
	}
	return nil
}
