package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// messages are sent one after the other, each shorter than the 16 bytes of a FIFO: in the kernel's sample of a serial device
// (mtty) the line leads back into that, and a full one counts as empty.
const (
	messages = 20
	length   = 8
)

// serial uses the first port of a serial device by its driver: what is sent comes back.
func serial(dir string) error {
	ports, err := filepath.Glob(dir + "/tty/ttyS*")
	if err != nil || len(ports) == 0 {
		ports, err = filepath.Glob(dir + "/*/*/tty/ttyS*") // Linux 6.6 and later
	}
	if err != nil || len(ports) == 0 {
		return errors.Join(err, errors.New("the device has no serial ports"))
	}
	tty, err := os.OpenFile("/dev/"+filepath.Base(ports[0]), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	if err := raw(int(tty.Fd())); err != nil {
		return err
	}
	for n := range messages {
		sent, got := fmt.Appendf(nil, "%0*d", length, n), make([]byte, length)
		if _, err := tty.Write(sent); err != nil {
			return err
		}
		if _, err := io.ReadFull(tty, got); err != nil || !bytes.Equal(sent, got) {
			return fmt.Errorf("sent %q, got %q: %w", sent, got, err)
		}
	}
	fmt.Println(ports[0], len(ports), "ports")
	return nil
}

func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// Where the kernel's sample of a display (mdpy) says what its picture is (samples/vfio-mdev/mdpy-defs.h).
const (
	pictureWidth  = 0x48
	pictureHeight = 0x4c
	pixel         = 4
)

// picture looks at the grey gradient that a display shows after its reset, and draws into it.
func picture(dir string) error {
	c, err := openConfig(dir)
	if err != nil {
		return err
	}
	c.put(command, c.get(command)|memory)
	b, err := bar(dir)
	if err != nil {
		return err
	}
	width, height := int(c.get(pictureWidth)), int(c.get(pictureHeight))
	if width == 0 || width*height*pixel > len(b) {
		return fmt.Errorf("a picture of %dx%d in %#x bytes", width, height, len(b))
	}
	for y := range height {
		line := b[y*width*pixel:][:width*pixel]
		if shade := byte(y * 255 / height); bytes.Count(line, []byte{shade}) != len(line) {
			return fmt.Errorf("line %d is not of shade %d: %x", y, shade, line[:16])
		}
		for i := range line {
			line[i] ^= byte(i)
		}
	}
	if got := b[(height-1)*width*pixel+5]; got != byte((height-1)*255/height)^5 {
		return fmt.Errorf("what was drawn is %#x", got)
	}
	fmt.Printf("%dx%d\n", width, height)
	return nil
}
