package guest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/internal/say"
	"github.com/stile-vmm/stile/vfio"
	"github.com/stile-vmm/stile/vmm"
)

// DeviceRequest is a device that a user wants passed through.
type DeviceRequest struct {
	Name  string // PCI address with or without domain, UUID, or path in sysfs
	Bind  bool   // give it to vfio-pci for the run, and back afterwards
	Token string // UUID that a physical function with VFIO and its virtual functions share, or ""
}

// ParseDevice parses NAME[,bind][,token=UUID].
func ParseDevice(text string) (DeviceRequest, error) {
	name, options, _ := strings.Cut(strings.TrimPrefix(text, "path="), ",")
	r := DeviceRequest{Name: name}
	if name == "" {
		return r, fmt.Errorf("--device %q: must be ADDRESS or ADDRESS,bind, such as 0000:01:00.0", text)
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "":
		case "bind":
			r.Bind = true
		case "token":
			if err := vfio.CheckToken(value); err != nil {
				return r, fmt.Errorf("--device %q: %w", text, err)
			}
			r.Token = value
		default:
			return r, fmt.Errorf("--device %q: option %q is unknown; there are bind and token=UUID", text, option)
		}
	}
	return r, nil
}

// validateDevices reports what is wrong with the devices of s without looking at the host.
func (s Spec) validateDevices() []error {
	var faults []error
	for _, text := range s.Devices {
		r, err := ParseDevice(text)
		if err == nil {
			err = hostpci.CheckName(r.Name)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	if s.VFIO != "" {
		_, err := vfio.ParseBackend(s.VFIO)
		faults = append(faults, err)
	}
	return append(faults, checkPolicy("--on-unplug", s.OnUnplug), checkPolicy("--on-device-error", s.OnDeviceError))
}

func checkPolicy(flag, text string) error {
	switch vmm.Policy(text) {
	case "", vmm.Stop, vmm.Warn:
		return nil
	}
	return fmt.Errorf("%s %q: must be %s or %s", flag, text, vmm.Stop, vmm.Warn)
}

// Claim is the host's devices of a run, with what was bound for it.
type Claim struct {
	host   *hostpci.Host
	sysfs  string
	spec   Spec
	wanted wanted
	nodes  []vfio.Node
	bound  []hostpci.BDF
}

// CheckDevices finds the devices of s, and tells all that speaks against passing them through. It
// changes nothing.
func CheckDevices(s Spec) (*Claim, error) { return checkOn(hostpci.New("/"), "/sys", s) }

func checkOn(host *hostpci.Host, sysfs string, s Spec) (*Claim, error) {
	c := &Claim{host: host, sysfs: sysfs, spec: s}
	var err error
	if c.wanted, err = c.resolve(); err != nil {
		return nil, err
	}
	return c, nil
}

// Take binds what is to be bound, all of it or nothing. The caller releases the claim after
// the VM was closed.
func (c *Claim) Take() error {
	if len(c.wanted.bind) > 0 {
		steps, err := c.host.Bind(c.wanted.bind, hostpci.BindOptions{Notice: notice})
		if err != nil {
			return err
		}
		for _, step := range steps {
			if len(step.Writes) > 0 {
				c.bound = append(c.bound, step.Address)
			}
		}
	}
	for _, d := range c.wanted.devices {
		n, err := lookup(c.sysfs, d.name)
		if err != nil {
			return errors.Join(err, c.Release())
		}
		n.Token = d.token
		c.nodes = append(c.nodes, n)
	}
	return nil
}

// lookup finds a device, and refuses one that no IOMMU isolates: its DMA would go to the
// guest-physical addresses of the host.
func lookup(sysfs, name string) (vfio.Node, error) {
	n, err := vfio.Lookup(sysfs, name)
	if err == nil && n.NoIOMMU {
		err = fmt.Errorf("device %s is in VFIO's no-IOMMU mode: its DMA would hit the host's memory; switch the IOMMU on", n.Name)
	}
	return n, err
}

// wanted is what a Spec asks for, resolved.
type wanted struct {
	devices []wantedDevice
	bind    []hostpci.BDF
}

type wantedDevice struct {
	name  string // as the kernel has it
	token string
}

// resolve finds out what the claim's Spec asks for, and reports all that speaks against it.
func (c *Claim) resolve() (wanted, error) {
	var w wanted
	if len(c.spec.Devices) == 0 {
		return w, nil
	}
	snapshot, err := c.scan()
	if err != nil {
		return w, err
	}
	var faults []error
	groups := make(map[int]string) // to be used, with a device of each
	for _, text := range c.spec.Devices {
		r, err := ParseDevice(text)
		if err == nil {
			err = c.want(snapshot, &w, r, groups)
		}
		faults = append(faults, err)
	}
	faults = append(faults, w.twice()...)
	if err := errors.Join(faults...); err != nil {
		return w, err
	}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		faults = append(faults, checkGroup(snapshot, id, groups[id], w.bind))
	}
	return w, errors.Join(faults...)
}

// scan reads of the host what the devices that are there need.
func (c *Claim) scan() (*hostpci.Snapshot, error) {
	var functions []hostpci.BDF
	for _, text := range c.spec.Devices {
		r, err := ParseDevice(text)
		if err != nil {
			continue
		}
		if b, err := c.host.Resolve(r.Name); err == nil {
			functions = append(functions, b)
		}
	}
	return c.host.ScanFor(functions...)
}

// want resolves one device, and notes its group.
func (c *Claim) want(s *hostpci.Snapshot, w *wanted, r DeviceRequest, groups map[int]string) error {
	if m := s.MediatedDevice(strings.ToLower(r.Name)); m != nil {
		w.devices = append(w.devices, wantedDevice{m.UUID, r.Token})
		if m.Group != nil {
			groups[*m.Group] = m.UUID
		}
		return nil
	}
	b, err := c.host.Resolve(r.Name)
	if err != nil {
		return err
	}
	f := s.Function(b)
	switch {
	case f == nil:
		return fmt.Errorf("device %v: it has just vanished", b)
	case f.Group == nil && Nested():
		return fmt.Errorf("device %v is in no IOMMU group: this topology of the lab has no IOMMU for it; choose another with --topology, "+
			"see stile lab topologies", b)
	case f.Group == nil:
		return fmt.Errorf("device %v is in no IOMMU group: no IOMMU is in use. Switch it on in the firmware's setup (VT-d, AMD-Vi) "+
			"and boot with intel_iommu=on; stile devices tells more", b)
	case standsOn(s, f) != "":
		return fmt.Errorf("device %s. It stays with the host, which stands on it", standsOn(s, f))
	case f.Status == hostpci.StatusDonates:
		return fmt.Errorf("device %v is wrapped as a mediated device: pass that through, by its UUID", b)
	case r.Bind && f.Status != hostpci.StatusVFIO:
		w.bind = append(w.bind, b)
	case f.Status != hostpci.StatusVFIO && !slices.Contains(w.bind, b):
		return fmt.Errorf("device %v %s: write --device %v,bind to bind it for the run, or use stile bind %v", b, driverNow(f.Driver), b, b)
	}
	w.devices = append(w.devices, wantedDevice{b.String(), r.Token})
	groups[*f.Group] = b.String()
	return nil
}

// standsOn tells what the host itself needs a function for, "" if it doesn't.
func standsOn(s *hostpci.Snapshot, f *hostpci.Function) string {
	g := s.Group(*f.Group)
	if g == nil {
		return ""
	}
	for _, b := range g.Viability.Blockers {
		if b.Name == f.Address.String() && b.Vital() {
			return b.String()
		}
	}
	return ""
}

func driverNow(driver string) string {
	if driver == "" {
		return "has no driver"
	}
	return "has no VFIO driver but the host's driver " + driver
}

// twice reports devices that are named more than once.
func (w wanted) twice() (faults []error) {
	seen := make(map[string]int)
	for _, d := range w.devices {
		if seen[d.name]++; seen[d.name] == 2 {
			faults = append(faults, fmt.Errorf("device %s is named twice by --device", d.name))
		}
	}
	return faults
}

// checkGroup reports a group that will not be viable once bind is bound, or that someone holds.
func checkGroup(s *hostpci.Snapshot, id int, name string, bind []hostpci.BDF) error {
	g := s.Group(id)
	if g == nil {
		return fmt.Errorf("device %s: its IOMMU group %d has vanished", name, id)
	}
	if len(g.Holders) > 0 {
		return fmt.Errorf("device %s: %s", name, holders(g))
	}
	var left []string
	var also []string
	stays := false
	for _, b := range g.Viability.Blockers {
		if slices.ContainsFunc(bind, func(f hostpci.BDF) bool { return f.String() == b.Name }) {
			continue
		}
		left = append(left, b.String())
		also = append(also, b.Name)
		stays = stays || b.Vital()
	}
	if len(left) == 0 {
		return nil
	}
	if stays {
		return fmt.Errorf("device %s: IOMMU group %d is not viable: %s. A group goes to one VM as a whole, and the host itself stands on this one",
			name, id, strings.Join(left, ", "))
	}
	return fmt.Errorf("device %s: IOMMU group %d is not viable: %s. A group goes to one VM as a whole: pass %s through too, or bind what the guest is not to have with "+
		"stile bind %s", name, id, strings.Join(left, ", "), strings.Join(also, ", "), strings.Join(also, " "))
}

func holders(g *hostpci.Group) string {
	names := make([]string, len(g.Holders))
	for i, p := range g.Holders {
		names[i] = p.String()
	}
	return fmt.Sprintf("IOMMU group %d is in use by %s: a group goes to one VM at a time", g.ID, strings.Join(names, ", "))
}

// describe tells what the host knows about a device that cannot be had.
func (c *Claim) describe(n vfio.Node) string {
	s, err := c.host.Scan()
	if err != nil || s.Group(n.Group) == nil {
		return ""
	}
	g := s.Group(n.Group)
	var parts []string
	others := slices.DeleteFunc(slices.Clone(g.Holders), func(p hostpci.Process) bool { return p.PID == os.Getpid() })
	if len(others) > 0 {
		parts = append(parts, holders(&hostpci.Group{ID: g.ID, Holders: others}))
	} else if !s.HoldersKnown {
		parts = append(parts, fmt.Sprintf("who holds IOMMU group %d is not known: not all processes may be looked at", g.ID))
	}
	if !g.Viability.Viable {
		parts = append(parts, g.Viability.Reason)
		if g.Viability.Remedy != "" {
			parts = append(parts, "→ "+g.Viability.Remedy)
		}
	}
	return strings.Join(parts, "\n")
}

// Apply gives a VM the claim's devices.
func (c *Claim) Apply(cfg *vmm.Config) {
	cfg.Devices, cfg.VFIO = c.nodes, vfio.Backend(c.spec.VFIO)
	cfg.DescribeDevice = c.describe
	cfg.OnUnplug, cfg.OnDeviceError = vmm.Policy(c.spec.OnUnplug), vmm.Policy(c.spec.OnDeviceError)
	cfg.Notice = notice
}

// Release gives back what was bound. The VM is closed. Further calls do nothing.
func (c *Claim) Release() error {
	if len(c.bound) == 0 {
		return nil
	}
	bound := c.bound
	c.bound = nil
	_, err := c.host.Unbind(bound, hostpci.UnbindOptions{Notice: notice})
	return err
}

func notice(text string) { say.Line(os.Stderr, text) }
