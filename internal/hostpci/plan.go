package hostpci

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// DefaultDriver is the driver that Bind gives functions to.
const DefaultDriver = "vfio-pci"

// BindOptions says how to bind.
type BindOptions struct {
	// Driver is the driver to bind to. If it is "", vfio-pci is, and a function that has
	// another VFIO driver keeps it.
	Driver string
	// Force binds functions although something on the host uses them. What would block
	// in the kernel, a function that a process has open by VFIO, is refused all the same.
	Force bool
	// Keep lets the binding outlive this process, as stile bind does. Without it the
	// binding counts as left behind once the process is gone.
	Keep bool
	// Notice is told what takes long, and what was put right on the way. It may be nil.
	Notice func(text string)
}

func (o BindOptions) target() string {
	if o.Driver == "" {
		return DefaultDriver
	}
	return o.Driver
}

// UnbindOptions says how to unbind.
type UnbindOptions struct {
	// Force also unbinds what stile did not bind: the kernel then chooses the driver.
	Force bool
	// Notice is as for BindOptions.
	Notice func(text string)
}

// Step is what is to be done, or was done, for one function.
type Step struct {
	Address BDF `json:"address"`
	// From and To are drivers; "" is none.
	From string `json:"from"`
	To   string `json:"to"`
	// Back is the driver that the function goes back to after a bind; "" for no driver.
	Back string `json:"back,omitempty"`
	// Writes are the writes in their order; none if there is nothing to change.
	Writes []Write `json:"writes"`

	override string // to go back to
}

// Plan is what Bind or Unbind would do.
type Plan struct {
	// Module is the module that is to be loaded first, or "".
	Module string `json:"module,omitempty"`
	Steps  []Step `json:"steps"`
}

// PlanBind tells what Bind would do and changes nothing. The error says all that Bind
// would refuse.
func (h *Host) PlanBind(functions []BDF, o BindOptions) (*Plan, error) {
	j, err := h.readJournal()
	if err != nil {
		return nil, err
	}
	return h.planBind(j, functions, o)
}

func (h *Host) planBind(j *journal, functions []BDF, o BindOptions) (*Plan, error) {
	if err := checkDriverName(o.target()); err != nil {
		return nil, err
	}
	s, err := h.ScanFor(functions...)
	if err != nil {
		return nil, err
	}
	p := &Plan{Steps: []Step{}}
	var faults []error
	for _, b := range once(functions) {
		step, err := h.planFunction(s, j, b, o)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		p.Steps = append(p.Steps, step)
		if len(step.Writes) > 0 && !h.tree.exists(pciDrivers+"/"+step.To) {
			p.Module = step.To
		}
	}
	return p, errors.Join(faults...)
}

// once leaves out what is named again.
func once(functions []BDF) []BDF {
	var list []BDF
	for _, b := range functions {
		if !slices.Contains(list, b) {
			list = append(list, b)
		}
	}
	return list
}

func checkDriverName(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r > '~' }) || name[0] == '.' {
		return fmt.Errorf("%q is not the name of a driver", name)
	}
	return nil
}

// planFunction decides what binding a function takes.
func (h *Host) planFunction(s *Snapshot, j *journal, b BDF, o BindOptions) (Step, error) {
	f := s.Function(b)
	if err := bindable(s, f, b, o.target()); err != nil {
		return Step{}, err
	}
	e := j.find(b)
	if e != nil && h.ownedByOther(*e) {
		return Step{}, fmt.Errorf("%v was bound by a stile that still runs (process %d); end that first", b, e.Owner.PID)
	}
	step := Step{Address: b, From: f.Driver, To: o.target(), Writes: []Write{}}
	if f.Driver == step.To || o.Driver == "" && f.Status == StatusVFIO {
		step.To = f.Driver
		return step, nil
	}
	if e != nil && f.Driver == e.Target {
		return Step{}, fmt.Errorf("%v was bound to %s by stile; give it back with stile unbind %v before it goes to %s", b, e.Target, b, step.To)
	}
	if err := h.free(s, f, o.Force); err != nil {
		return Step{}, err
	}
	var err error
	if step.override, err = h.override(b); err != nil {
		return Step{}, err
	}
	step.Back = f.Driver
	if e != nil {
		step.inherit(*e)
	}
	step.Writes = bindWrites(b, f.Driver, step.To)
	return step, nil
}

// inherit takes over from an earlier bind what the function goes back to. The driver that it was given then is gone (its
// module was removed, or somebody has unbound the function by hand), and its own driver is known from then only.
func (s *Step) inherit(e Entry) {
	if s.From == "" {
		s.Back = e.Driver
	}
	if s.override == e.Target {
		s.override = e.Override
	}
}

// bindable tells why a function can't be bound at all.
func bindable(s *Snapshot, f *Function, b BDF, target string) error {
	switch {
	case f == nil:
		return fmt.Errorf("no PCI function %v on this host; see stile devices", b)
	case f.Bridge:
		return fmt.Errorf("%v is a bridge, which always stays with the host; bind the devices behind it", b)
	case f.Group == nil:
		return fmt.Errorf("%v has no IOMMU group: %s; %s", b, choose(s.IOMMU.On, "the IOMMU does not cover it", s.IOMMU.Reason),
			choose(s.IOMMU.On, "use another slot, or another device", s.IOMMU.Remedy))
	case f.Driver == DonorDriver && target != DonorDriver:
		return fmt.Errorf("%v is wrapped as a mediated device, which ends when the driver %s is taken away; use stile mdev unwrap %v first", b, DonorDriver, b)
	}
	return nil
}

// free tells what keeps a function from being taken from its driver.
func (h *Host) free(s *Snapshot, f *Function, force bool) error {
	if err := heldError(s, f); err != nil {
		return err
	}
	uses := h.Uses(s, f)
	if vital(uses) {
		return fmt.Errorf("%v stays with the host, which stands on it: %s; --force does not change that", f.Address, joinUses(uses))
	}
	if force {
		return nil
	}
	if uses = append(uses, h.claims(f, uses)...); len(uses) > 0 {
		return fmt.Errorf("%v is in use on this host: %s; end that first, or bind it all the same with --force", f.Address, joinUses(uses))
	}
	return nil
}

// heldError names the processes that a driver would wait for before it lets go of a
// function: those that have its VFIO group open, or that of a mediated device made of it.
func heldError(s *Snapshot, f *Function) error {
	groups := []*int{}
	if f.Status == StatusVFIO || f.Status == StatusDonates {
		groups = append(groups, f.Group)
	}
	for _, m := range s.children(f.Address) {
		groups = append(groups, m.Group)
	}
	for _, id := range groups {
		if id == nil || s.Group(*id) == nil || len(s.Group(*id).Holders) == 0 {
			continue
		}
		return fmt.Errorf("%v is in use: %s %s its VFIO group %d open, and the driver %s would not let go of it before that ends; end it first",
			f.Address, joinProcesses(s.Group(*id).Holders), choose(len(s.Group(*id).Holders) == 1, "has", "have"), *id, f.Driver)
	}
	return nil
}

func overrideWrite(b BDF, driver string) Write {
	return Write{functionPath(b) + "/driver_override", driver + "\n"}
}

func unbindWrite(b BDF, driver string) Write {
	return Write{pciDrivers + "/" + driver + "/unbind", b.String()}
}

// bindWrites are the writes that give a function to a driver. The override comes first:
// from the moment the function has no driver, none but the wanted one may take it.
func bindWrites(b BDF, from, to string) []Write {
	writes := []Write{overrideWrite(b, to)}
	if from != "" {
		writes = append(writes, unbindWrite(b, from))
	}
	return append(writes, Write{driversProbe, b.String()})
}

// restoreWrites are the writes that give a function back, from the state that it is in.
// A function that someone else has given a third driver meanwhile keeps that.
func restoreWrites(e Entry, driver, override string) []Write {
	writes := []Write{}
	foreign := driver != "" && driver != e.Driver && driver != e.Target
	if driver == e.Target && driver != e.Driver {
		writes = append(writes, unbindWrite(e.Address, driver))
	}
	if override == e.Target && override != e.Override {
		writes = append(writes, overrideWrite(e.Address, e.Override))
	}
	if e.Driver != "" && driver != e.Driver && !foreign {
		writes = append(writes, backWrite(e))
	}
	return writes
}

// backWrite binds a function to the driver it had. Other than a probe, this write fails
// when the driver does, with its error.
func backWrite(e Entry) Write {
	return Write{pciDrivers + "/" + e.Driver + "/bind", e.Address.String()}
}

// PlanUnbind tells what Unbind would do and changes nothing.
func (h *Host) PlanUnbind(functions []BDF, o UnbindOptions) (*Plan, error) {
	j, err := h.readJournal()
	if err != nil {
		return nil, err
	}
	s, err := h.ScanFor(functions...)
	if err != nil {
		return nil, err
	}
	return h.planUnbind(s, j, functions, o)
}

func (h *Host) planUnbind(s *Snapshot, j *journal, functions []BDF, o UnbindOptions) (*Plan, error) {
	p := &Plan{Steps: []Step{}}
	var faults []error
	for _, b := range once(functions) {
		step, err := h.planRestore(s, j, b, o)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		p.Steps = append(p.Steps, step)
	}
	return p, errors.Join(faults...)
}

func (h *Host) planRestore(s *Snapshot, j *journal, b BDF, o UnbindOptions) (Step, error) {
	f := s.Function(b)
	if f == nil {
		return Step{}, fmt.Errorf("no PCI function %v on this host; see stile devices", b)
	}
	if err := heldError(s, f); err != nil {
		return Step{}, err
	}
	if children := s.children(b); f.Status == StatusDonates && len(children) > 0 && !o.Force {
		return Step{}, fmt.Errorf("%v is wrapped as mediated device %s, which would end; use stile mdev unwrap %v", b, children[0].UUID, b)
	}
	override, err := h.override(b)
	if err != nil {
		return Step{}, err
	}
	step := Step{Address: b, From: f.Driver, To: f.Driver, Writes: []Write{}, override: override}
	if e := j.find(b); e != nil {
		if h.ownedByOther(*e) {
			return Step{}, fmt.Errorf("%v was bound by a stile that still runs (process %d), which gives it back itself", b, e.Owner.PID)
		}
		step.Writes = restoreWrites(*e, f.Driver, override)
		if f.Driver == e.Target || f.Driver == "" {
			step.To = e.Driver
		}
		return step, nil
	}
	switch {
	case f.Status != StatusVFIO && f.Status != StatusDonates:
		return step, nil
	case !o.Force:
		return Step{}, fmt.Errorf("%v was not bound to %s by stile, so the driver to go back to is not known; with --force the kernel chooses one", b, f.Driver)
	}
	step.To = ""
	step.Writes = []Write{unbindWrite(b, f.Driver), overrideWrite(b, ""), {driversProbe, b.String()}}
	return step, nil
}
