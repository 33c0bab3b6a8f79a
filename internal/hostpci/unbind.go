package hostpci

import (
	"errors"
	"fmt"
	"slices"
)

// Unbind gives functions back to the drivers that they had before Bind. Functions that
// are not bound are left alone. Each function is tried, also after one has failed.
func (h *Host) Unbind(functions []BDF, o UnbindOptions) ([]Step, error) {
	done := []Step{}
	err := h.change(o.Notice, func(c *changer) error {
		s, err := h.ScanFor(functions...)
		if err != nil {
			return err
		}
		p, err := h.planUnbind(s, c.journal, functions, o)
		faults := []error{err}
		for _, step := range p.Steps {
			if err := c.unbind(step); err != nil {
				faults = append(faults, err)
				continue
			}
			step.To = h.driver(step.Address)
			done = append(done, step)
		}
		return errors.Join(faults...)
	})
	return done, err
}

func (c *changer) unbind(step Step) error {
	if c.journal.find(step.Address) != nil {
		return c.restore(step.Address)
	}
	if err := c.writeAll(step.Writes); err != nil {
		return fmt.Errorf("unbind %v: %w", step.Address, err)
	}
	return nil
}

// Bindings returns the journal's entries: all that stile has bound and not given back.
func (h *Host) Bindings() ([]Entry, error) {
	j, err := h.readJournal()
	if err != nil {
		return nil, err
	}
	return j.Entries, nil
}

// Stale returns the entries of processes that were killed before they could give back
// what they had bound. It changes nothing and needs no root.
func (h *Host) Stale() ([]Entry, error) {
	entries, err := h.Bindings()
	return slices.DeleteFunc(entries, func(e Entry) bool { return !h.stale(e) }), err
}

// Recover gives back what killed processes left bound. Each function is tried, also
// after one has failed.
func (h *Host) Recover(notice func(string)) ([]Step, error) {
	done := []Step{}
	if entries, err := h.Stale(); err != nil || len(entries) == 0 {
		return done, err
	}
	err := h.change(notice, func(c *changer) error {
		steps, err := c.recover()
		done = append(done, steps...)
		return err
	})
	return done, err
}

// recoverFirst gives back what is stale in a call that binds something. What can't be
// given back is no reason to fail: if it is what shall be bound, the plan will tell.
func (c *changer) recoverFirst() {
	done, err := c.recover()
	for _, step := range done {
		c.notice(fmt.Sprintf("gave %v back to %s: the stile that had bound it was killed", step.Address, driverName(step.To)))
	}
	if err != nil {
		c.notice(err.Error())
	}
}

func (c *changer) recover() ([]Step, error) {
	var stale []Entry
	for _, e := range c.journal.Entries {
		if c.host.stale(e) {
			stale = append(stale, e)
		}
	}
	if len(stale) == 0 {
		return nil, nil
	}
	s, err := c.host.Scan()
	if err != nil {
		return nil, err
	}
	var done []Step
	var faults []error
	for _, e := range stale {
		if f := s.Function(e.Address); f != nil {
			if err := heldError(s, f); err != nil {
				faults = append(faults, err)
				continue
			}
		}
		from := c.host.driver(e.Address)
		if err := c.restore(e.Address); err != nil {
			faults = append(faults, err)
			continue
		}
		done = append(done, Step{Address: e.Address, From: from, To: c.host.driver(e.Address), Writes: []Write{}})
	}
	return done, errors.Join(faults...)
}
