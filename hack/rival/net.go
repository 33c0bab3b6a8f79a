package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/stile-vmm/stile/internal/guest"
	"github.com/stile-vmm/stile/lab"
)

const (
	tapName    = "tap0"
	tapAddress = "10.9.0.2" // the nested host's
	// The cards' addresses tell the guest its own.
	tapMAC  = "02:00:0a:09:00:0f" // 10.9.0.15
	userMAC = "02:00:0a:00:02:0f" // 10.0.2.15
	// transferred is how much package init transfers each way, in MB.
	transferred = float64(32<<20) / 1e6
)

// networks are arguments to add for a network, by its kind. kvmtool's last --network counts.
var networks = map[string]map[string][]string{
	"tap": {
		"stile":        {"--net", "tap=" + tapName + ",mac=" + tapMAC},
		"kvmtool":      {"--network", "mode=tap,tapif=" + tapName + ",guest_mac=" + tapMAC},
		"QEMU microvm": qemuNet(tapMAC, "tap,ifname="+tapName+",script=no,downscript=no"),
	},
	"user": {
		"stile":        {"--net", "user,mac=" + userMAC},
		"QEMU microvm": qemuNet(userMAC, "user"),
	},
}

func qemuNet(mac, backend string) []string {
	return []string{"-M", "microvm,accel=kvm,rtc=on,pcie=on", "-netdev", backend + ",id=net", "-device", "virtio-net-pci,netdev=net,romfile=,mac=" + mac}
}

// netFigures are what package init prints.
var netFigures = regexp.MustCompile(`net: down_us=(\d+) up_us=(\d+)`)

// compareNetworks lets the guest of each VMM transfer to and from the nested host by TCP, and prints medians.
func compareNetworks(ctx context.Context, host *guest.LabHost, vmms []*vmm, runs int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := serveTransfers(ctx, host); err != nil {
		return err
	}
	for _, kind := range []string{"tap", "user"} {
		fmt.Printf("TCP over --net %s, %d runs in turn, MB/s, min / median / max: to the guest; from it\n", kind, runs)
		var compared []*networked
		for _, v := range vmms {
			if add := networks[kind][v.name]; add != nil {
				compared = append(compared, &networked{name: v.name, args: append(slices.Clone(v.args), add...)})
			}
		}
		for range runs {
			for _, n := range compared {
				if err := n.measure(ctx, host); err != nil {
					return fmt.Errorf("%s with a network: %w", n.name, err)
				}
			}
		}
		for _, n := range compared {
			n.print()
		}
	}
	return nil
}

// networked is a VMM with a network, and what was measured, in MB/s.
type networked struct {
	name     string
	args     []string
	down, up []float64
}

func (n *networked) measure(ctx context.Context, host *guest.LabHost) error {
	_, output, err := measure(ctx, host, n.args)
	if err != nil {
		return err
	}
	m := netFigures.FindStringSubmatch(output)
	if m == nil {
		return fmt.Errorf("the guest did not measure it: %s", output)
	}
	down, _ := strconv.Atoi(m[1]) // digits
	up, _ := strconv.Atoi(m[2])
	n.down, n.up = append(n.down, transferred*1e6/float64(down)), append(n.up, transferred*1e6/float64(up))
	return nil
}

func (n *networked) print() {
	slices.Sort(n.down)
	slices.Sort(n.up)
	runs := len(n.down)
	fmt.Printf("%-14s %5.1f / %5.1f / %5.1f   %5.1f / %5.1f / %5.1f\n", n.name,
		n.down[0], n.down[runs/2], n.down[runs-1], n.up[0], n.up[runs/2], n.up[runs-1])
}

// serveTransfers has package init serve in the nested host until ctx ends, and returns when it does.
func serveTransfers(ctx context.Context, host *guest.LabHost) error {
	serving := make(chan struct{})
	said := &awaited{text: "serving\n", seen: serving}
	ended := make(chan error, 1)
	go func() {
		_, err := host.Exec(ctx, &lab.Options{Args: []string{program, "serve", tapAddress}, Stdout: said, Stderr: said})
		ended <- err
	}()
	select {
	case <-serving:
		return nil
	case err := <-ended:
		return fmt.Errorf("serve transfers: %w: %s", err, said.all.String())
	}
}

// awaited closes seen when text was written to it.
type awaited struct {
	text string
	all  bytes.Buffer
	seen chan struct{}
	done bool
}

func (a *awaited) Write(p []byte) (int, error) {
	a.all.Write(p)
	if !a.done && bytes.Contains(a.all.Bytes(), []byte(a.text)) {
		a.done = true
		close(a.seen)
	}
	return len(p), nil
}
