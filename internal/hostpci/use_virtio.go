package hostpci

import (
	"slices"
	"strings"
)

const (
	virtioDevices = "/sys/bus/virtio/devices"
	classPorts    = "/sys/class/virtio-ports"
	// agentPort is the name of the port by which stile steers the machine that it runs in.
	agentPort = "stile.agent"
)

// virtioUses tells whether the host's files come through a virtio function, or what steers it.
func (l *look) virtioUses(b BDF) []Use {
	var uses []Use
	for _, device := range l.devicesOf(b, virtioDevices) {
		dir := virtioDevices + "/" + device
		switch l.host.tree.linkName(dir + "/driver") {
		case "9pnet_virtio":
			tag, _ := l.host.tree.text(dir + "/mount_tag")
			uses = append(uses, l.shareUses(strings.Trim(tag, "\x00"))...)
		case "virtiofs":
			uses = append(uses, l.virtiofsUses()...)
		}
	}
	for _, port := range l.devicesOf(b, classPorts) {
		if name, _ := l.host.tree.text(classPorts + "/" + port + "/name"); name == agentPort {
			uses = append(uses, Use{"lab", "stile steers this machine through it, by the port " + agentPort, true})
		}
	}
	return uses
}

// shareUses tells what a 9p share is used for. Its driver is not let go of before the last mount ends. A share below an
// overlay that was made before the root was switched is nowhere to be seen.
func (l *look) shareUses(tag string) []Use {
	overlay := false
	for _, m := range l.mountPoints() {
		if m.Type == "9p" && m.Source == tag {
			return []Use{{"share", "the shared folder " + tag + " is mounted on " + m.Target, true}}
		}
		overlay = overlay || m.Type == "overlay" && m.Target == "/"
	}
	if overlay {
		return []Use{{"share", "the shared folder " + tag + " may be below the overlay that is the root", true}}
	}
	return nil
}

// virtiofsUses: which device a mount is of, kernels before 6.9 don't tell.
func (l *look) virtiofsUses() []Use {
	for _, m := range l.mountPoints() {
		if m.Type == "virtiofs" {
			return []Use{{"share", "the shared folder " + m.Source + " is mounted on " + m.Target + ", perhaps from it", m.Target == "/"}}
		}
	}
	return nil
}

// consoleUses tells whether the kernel's messages go to a terminal of the function. Terminals of virtio ports (hvc0)
// don't tell which port they are.
func (l *look) consoleUses(b BDF) []Use {
	terminals := l.devicesOf(b, "/sys/class/tty")
	ports := l.devicesOf(b, classPorts)
	var uses []Use
	for _, name := range l.consoleNames() {
		switch {
		case slices.Contains(terminals, name):
			uses = append(uses, Use{Kind: "console", Text: "the kernel's console " + name + " is on it"})
		case len(ports) > 0 && strings.HasPrefix(name, "hvc"):
			uses = append(uses, Use{Kind: "console", Text: "the kernel's console " + name + " may be on it"})
		}
	}
	return uses
}
