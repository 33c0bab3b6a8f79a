// Command vsock is one end of vsock connections, for tests:
//
//	vsock echo PORT        listens, says "listening", and sends back what each connection brings
//	vsock dial PORT [CID]  connects to the host, or to that guest; standard input goes there, standard output is what comes
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: vsock echo PORT | dial PORT [CID]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "vsock:", err)
		os.Exit(1)
	}
}

func run(mode string, numbers []string) error {
	port, err := strconv.ParseUint(numbers[0], 10, 32)
	if err != nil {
		return err
	}
	peer := uint64(unix.VMADDR_CID_HOST)
	if len(numbers) > 1 {
		if peer, err = strconv.ParseUint(numbers[1], 10, 32); err != nil {
			return err
		}
	}
	s, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if mode == "dial" {
		return dial(s, uint32(peer), uint32(port))
	}
	return echo(s, uint32(port))
}

func dial(s int, peer, port uint32) error {
	if err := unix.Connect(s, &unix.SockaddrVM{CID: peer, Port: port}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	conn := os.NewFile(uintptr(s), "vsock")
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		if err == nil {
			err = unix.Shutdown(s, unix.SHUT_WR)
		}
		sent <- err
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return err
	}
	return <-sent
}

func echo(s int, port uint32) error {
	if err := unix.Bind(s, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(s, 16); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println("listening")
	for {
		fd, _, err := unix.Accept(s)
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			conn := os.NewFile(uintptr(fd), "vsock")
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // until either end is gone
		}()
	}
}
