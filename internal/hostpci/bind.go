package hostpci

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// changer makes the changes of one call, with the journal locked.
type changer struct {
	host    *Host
	journal *journal
	notice  func(string)
}

// change runs fn with the journal locked and read.
func (h *Host) change(notice func(string), fn func(*changer) error) error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.readJournal()
	if err != nil {
		return err
	}
	if notice == nil {
		notice = func(string) {}
	}
	return fn(&changer{h, j, notice})
}

// Bind gives functions to a VFIO driver, all of them or none: what was done is undone
// when a later step fails. Before that, what killed processes left behind is given back.
func (h *Host) Bind(functions []BDF, o BindOptions) ([]Step, error) {
	var done []Step
	err := h.change(o.Notice, func(c *changer) error {
		c.recoverFirst()
		p, err := h.planBind(c.journal, functions, o)
		if err != nil {
			return err
		}
		if err := h.loadDriver(p.Module); err != nil {
			return err
		}
		for _, step := range p.Steps {
			if len(step.Writes) > 0 {
				if err := c.bind(step, o.Keep); err != nil {
					return errors.Join(err, c.undo(done))
				}
			}
			done = append(done, step)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// loadDriver makes sure that a driver is there. "" is none.
func (h *Host) loadDriver(name string) error {
	if name == "" {
		return nil
	}
	err := h.load(name)
	if err == nil && h.tree.exists(pciDrivers+"/"+name) {
		return nil
	}
	if err == nil {
		err = errors.New("its module was loaded, and no such driver appeared")
	}
	remedy := "run modprobe " + name + " as root"
	if name == DefaultDriver {
		remedy = "the running kernel needs VFIO (CONFIG_VFIO_PCI): install the distribution's full kernel, not its cloud or minimal one"
	}
	return fmt.Errorf("the driver %s is not there: %w; %s", name, err, remedy)
}

// bind makes the writes of one step. On failure the function is as it was before.
func (c *changer) bind(step Step, keep bool) error {
	owner, err := c.host.self()
	if err != nil {
		return err
	}
	e := Entry{Address: step.Address, Driver: step.Back, Override: step.override, Target: step.To, Phase: binding, Keep: keep, Owner: owner}
	c.journal.remove(step.Address)
	c.journal.Entries = append(c.journal.Entries, e)
	if err := c.host.writeJournal(c.journal); err != nil {
		c.journal.remove(step.Address)
		return err
	}
	err = c.writeAll(step.Writes)
	if err == nil {
		err = c.expect(step.Address, step.To)
	}
	if err == nil {
		c.journal.find(step.Address).Phase = bound
		err = c.host.writeJournal(c.journal)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("bind %v to %s: %w", step.Address, step.To, err)
	if back := c.restore(step.Address); back != nil {
		return errors.Join(err, back)
	}
	return err
}

// undo gives back what was done, the last first.
func (c *changer) undo(done []Step) error {
	var faults []error
	for _, step := range slices.Backward(done) {
		if len(step.Writes) > 0 {
			faults = append(faults, c.restore(step.Address))
		}
	}
	return errors.Join(faults...)
}

// expect checks which driver has a function after a probe, which fails in silence.
func (c *changer) expect(b BDF, driver string) error {
	now := c.host.driver(b)
	switch {
	case now == driver:
		return nil
	case now == "" && deniedReason(c.host.id(b), driver) != "":
		return fmt.Errorf("the driver %s refuses it: %s", driver, deniedReason(c.host.id(b), driver))
	case now == "":
		return fmt.Errorf("the driver %s did not take it; the kernel's log (dmesg) may say why", driver)
	}
	return fmt.Errorf("the driver %s took it instead", now)
}

func (h *Host) driver(b BDF) string { return h.tree.linkName(functionPath(b) + "/driver") }

// id returns the function's ID, the zero value where it can't be read.
func (h *Host) id(b BDF) ID {
	f := &Function{Address: b}
	h.readUevent(f, functionPath(b))
	return f.ID
}

func (c *changer) writeAll(writes []Write) error {
	for _, w := range writes {
		if err := c.write(w); err != nil {
			return err
		}
	}
	return nil
}

// write makes one write, which the kernel may hold up for as long as a device is in use,
// and says so when it does.
func (c *changer) write(w Write) error {
	result := make(chan error, 1)
	go func() { result <- c.host.write.Write(w) }()
	slow := time.NewTimer(c.host.noticeAfter)
	defer slow.Stop()
	for {
		select {
		case err := <-result:
			if err != nil {
				return &writeError{w, err}
			}
			return nil
		case <-slow.C:
			c.notice(fmt.Sprintf("waiting for the kernel: %v; a driver may be waiting for a program to let go of the device", w))
		}
	}
}

// restore gives a function back as its entry says and removes the entry. On failure the
// entry stays, for the next attempt.
func (c *changer) restore(b BDF) error {
	found := c.journal.find(b)
	if found == nil {
		return nil
	}
	e := *found
	if !c.host.tree.exists(functionPath(b)) {
		return c.forget(b) // unplugged: nothing is left to give back
	}
	err := c.giveBack(e)
	if err != nil {
		return fmt.Errorf("give %v back to %s: %w", b, driverName(e.Driver), err)
	}
	return c.forget(b)
}

func driverName(name string) string {
	if name == "" {
		return "no driver"
	}
	return name
}

func (c *changer) forget(b BDF) error {
	c.journal.remove(b)
	return c.host.writeJournal(c.journal)
}

func (c *changer) giveBack(e Entry) error {
	override, err := c.host.override(e.Address)
	if err != nil {
		return err
	}
	writes := restoreWrites(e, c.host.driver(e.Address), override)
	if len(writes) == 0 {
		return nil
	}
	c.journal.find(e.Address).Phase = restoring
	if err := c.host.writeJournal(c.journal); err != nil {
		return err
	}
	back := backWrite(e)
	if !slices.Contains(writes, back) {
		return c.writeAll(writes)
	}
	if !c.host.tree.exists(pciDrivers + "/" + e.Driver) {
		if err := c.host.loadDriver(e.Driver); err != nil {
			return err
		}
	}
	if err := c.writeAll(writes); err != nil {
		return err
	}
	return c.expect(e.Address, e.Driver)
}
