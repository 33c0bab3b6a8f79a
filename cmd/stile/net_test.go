package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stile-vmm/stile/vmtest"
)

// netSize is how many bytes testdata/network transfers.
const netSize = 32 << 20

// TestUserNet gives a guest a network without privileges, and servers on this host. The guest does the checking.
func TestUserNet(t *testing.T) {
	needGuests(t)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			io.CopyN(w, rand.NewChaCha8([32]byte{1}), netSize)
			return
		}
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d bytes, %x", n, h.Sum(nil))
	}))
	defer web.Close()
	web6, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer web6.Close()
	go http.Serve(web6, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.CopyN(w, rand.NewChaCha8([32]byte{1}), netSize)
	}))
	echo := datagrams(t, func(b []byte) []byte { return b })
	names := datagrams(t, answerName)
	forward, err := net.Listen("tcp", "127.77.0.1:0") // a port that is free, and stays so: nobody else uses this address
	if err != nil {
		t.Fatal(err)
	}
	forward.Close()
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), filepath.Join(tools, "stile"), "run", "--json", report,
		"--net", fmt.Sprintf("user,dns=%v,fwd=%v:2222", names, forward.Addr()), "--net", "user", "--",
		filepath.Join(tools, "network"), "user", port(web.Addr()), port(echo), "2222", port(web6.Addr()))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(processLimit, func() { cmd.Process.Kill() }).Stop()
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() == "listening" {
		c, err := net.Dial("tcp", forward.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("through the forward "), 10000)
		go func() { _, _ = c.Write(sent) }() // the echo tells
		got := make([]byte, len(sent))
		if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d of %d bytes came back: %v", n, len(sent), err)
		}
		c.Close() // and with it ends the guest's program
	}
	if err := cmd.Wait(); err != nil || lines.Text() != "all user right" {
		t.Errorf("the guest said %q: %v", lines.Text(), err)
	}
	// Two transfers are thousands of frames. The rest is the driver's start.
	noExits(t, report, "virtio net 0")
}

// mostExits is what a driver's start takes of a device, with room for what other kernels do.
const mostExits = 250

// noExits holds that what a guest asked of a device, in hundreds of requests or thousands, were no exits to user space.
func noExits(t *testing.T, report, device string) {
	t.Helper()
	r := readReport(t, report)
	if n := r.Devices[device]; n == 0 || n > mostExits {
		t.Errorf("%d exits for %s, of %v", n, device, r.Devices)
	}
	t.Logf("%d exits for %s", r.Devices[device], device)
}

func port(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

// datagrams serves UDP on this host until the end of the test.
func datagrams(t *testing.T, answer func([]byte) []byte) net.Addr {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(answer(buf[:n]), from)
		}
	}()
	return c.LocalAddr()
}

// answerName answers a DNS query: an A record for every A query, nothing for others (RFC 1035, 4.1).
func answerName(query []byte) []byte {
	const header, typeA = 12, 1
	name := bytes.IndexByte(query[header:], 0)
	end := header + name + 1 + 4
	if name < 0 || len(query) < end {
		return nil
	}
	a := bytes.Clone(query[:end])
	a[2], a[3] = 0x81, 0x80
	clear(a[6:header])
	if binary.BigEndian.Uint16(a[end-4:]) == typeA {
		a[7] = 1
		a = append(a, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77)
	}
	return a
}

// TestTap gives a guest in the nested host a tap of two queues there.
func TestTap(t *testing.T) {
	p := passed{vmtest.Lab(t, vmtest.LabConfig{Topology: "singleton"})}
	network := filepath.Join(tools, "network")
	cmd := p.Command(t.Context(), network, "host", "tap", filepath.Join(tools, "stile"), "run", "-c", "2", "--net", "tap=tap0,ip=10.9.0.2/24",
		"--", network, "tap")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all tap right") {
		t.Errorf("%v: %s", err, out)
	}
	_, _, stderr := p.nested(t, "run", "--net", "tap=none", "--net", "user,fwd=x", "--net", "tap=lo,cidr=10.0.0.0/8", "--", "true")
	for _, want := range []string{"fwd=x", `tap takes no "cidr"`} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stile says %q, without %q", stderr, want)
		}
	}
	_, _, stderr = p.nested(t, "run", "--net", "tap=none", "--", "true")
	if !strings.Contains(stderr, "no tap is named none") || !strings.Contains(stderr, "ip tuntap add none") {
		t.Errorf("stile says %q", stderr)
	}
}
