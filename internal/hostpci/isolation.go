package hostpci

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Isolation says in plain words why a group has the members it has.
type Isolation struct {
	// Text are sentences.
	Text []string `json:"text"`
	// ACS of the functions that matter for the group.
	ACS map[string]ACS `json:"acs,omitempty"`
}

const (
	textAlone       = "%s is alone in its group: whatever it sends to other devices or to memory passes the IOMMU."
	textEmulated    = "The group holds a mediated device only: its parent's driver checks each access to memory, and no IOMMU does."
	textUnprotected = "This is VFIO's no-IOMMU mode: nothing keeps the device from any of the host's memory."
	textSlot        = "%s are functions of one device that may talk to each other without the IOMMU seeing it: %s."
	textBridge      = "%s are behind bridge %s, which may pass what one sends on to another without the IOMMU seeing it: %s."
	textBridgeOne   = "%s is behind bridge %s, which may pass what it sends on to others without the IOMMU seeing it: %s."
	textPCIBus      = "%s are on the conventional PCI bus behind %s, where the IOMMU can't tell one from another."
	textPCIBusOne   = "%s is on the conventional PCI bus behind %s, where the IOMMU can't tell it from the bridge."
	textNoReason    = "The kernel put these devices in one group, and their configuration spaces do not show why: an IOMMU or platform that can't tell them apart, or a device that is known to use another's address."
	textMediated    = "%s is a mediated device in its parent's group: it stands for the parent, whose driver donates the group."
	textTogether    = "So all of the group goes to one guest, or none of it."
)

// why explains an ACS state in a sentence's end.
func (a ACS) why() string {
	switch a {
	case ACSAbsent:
		return "it has no ACS (access control)"
	case ACSOff:
		return "its ACS (access control) is not all switched on"
	case ACSOn:
		return "its own ACS is on, so the gap is between it and the root"
	}
	return "its ACS (access control) can't be read (that takes root, and a device that is awake)"
}

// whySlot is the same for functions of one device.
func (a ACS) whySlot() string {
	switch a {
	case ACSAbsent:
		return "they have no ACS (access control)"
	case ACSOff:
		return "their ACS (access control) is not all switched on"
	}
	return "their ACS (access control) can't be read (that takes root, and a device that is awake)"
}

// Explain says why a group has these members. It reads configuration spaces, which can
// wake sleeping devices.
func (h *Host) Explain(s *Snapshot, g *Group) Isolation {
	e := explainer{host: h, snapshot: s, group: g, configs: make(map[BDF]configSpace), acs: make(map[string]ACS)}
	e.explain()
	return Isolation{Text: e.text, ACS: e.acs}
}

type explainer struct {
	host     *Host
	snapshot *Snapshot
	group    *Group
	configs  map[BDF]configSpace
	acs      map[string]ACS
	text     []string
}

func (e *explainer) say(format string, args ...any) {
	e.text = append(e.text, fmt.Sprintf(format, args...))
}

func (e *explainer) explain() {
	members := e.group.Functions()
	switch {
	case e.group.Kind == Emulated:
		e.say(textEmulated)
		return
	case e.group.Kind == Unprotected:
		e.say(textUnprotected)
		return
	case len(members) == 1:
		e.say(textAlone, members[0])
	case len(members) > 1:
		e.bridges(members)
		e.slots(members)
		if len(e.text) == 0 {
			e.say(textNoReason)
		}
		e.say(textTogether)
	}
	for _, m := range e.group.Members {
		if m.Mediated {
			e.say(textMediated, m.Name)
		}
	}
}

// bridges explains the members that are there because of a bridge in the group.
func (e *explainer) bridges(members []BDF) {
	below := make(map[BDF][]BDF)
	for _, b := range members {
		if up, ok := e.host.upstream(b); ok && slices.Contains(members, up) {
			below[up] = append(below[up], b)
		}
	}
	for _, up := range members {
		if len(below[up]) == 0 {
			continue
		}
		names := joinBDFs(below[up])
		one := len(below[up]) == 1
		if e.toConventional(up) {
			e.say(choose(one, textPCIBusOne, textPCIBus), names, up)
		} else {
			e.say(choose(one, textBridgeOne, textBridge), names, up, e.acsOf(up).why())
		}
	}
}

// toConventional tells whether the bus behind a bridge is a conventional PCI bus.
func (e *explainer) toConventional(bridge BDF) bool {
	c := e.config(bridge)
	port := c.port()
	return port == portToPCI || port == notExpress && len(c) >= basicSize
}

// slots explains members that are functions of one device.
func (e *explainer) slots(members []BDF) {
	for i := 0; i < len(members); {
		j := i + 1
		for j < len(members) && members[j].sameSlot(members[i]) {
			j++
		}
		if j-i > 1 && !e.conventional(members[i]) {
			e.slot(members[i:j])
		}
		i = j
	}
}

func (e *explainer) slot(functions []BDF) {
	worst := ACSOn
	for _, b := range functions {
		a := e.acsOf(b)
		if order(a) > order(worst) {
			worst = a
		}
	}
	if worst != ACSOn { // otherwise the device isn't the reason
		e.say(textSlot, joinBDFs(functions), worst.whySlot())
	}
}

// order ranks by what explains a group best.
func order(a ACS) int { return slices.Index([]ACS{ACSOn, ACSUnknown, ACSOff, ACSAbsent}, a) }

// conventional tells whether a function is on a conventional bus whose bridge is a
// member, which explains the group already.
func (e *explainer) conventional(b BDF) bool {
	up, ok := e.host.upstream(b)
	return ok && slices.Contains(e.group.Functions(), up) && e.toConventional(up)
}

func (e *explainer) config(b BDF) configSpace {
	c, ok := e.configs[b]
	if !ok {
		c, _ = e.host.config(b)
		e.configs[b] = c
	}
	return c
}

func (e *explainer) acsOf(b BDF) ACS {
	a := e.config(b).acs()
	e.acs[b.String()] = a
	return a
}

func (h *Host) config(b BDF) (configSpace, error) {
	c, err := h.tree.bytes(functionPath(b)+"/config", extLimit)
	return configSpace(c), err
}

// upstream returns the bridge that a function is behind, false on a root bus. The
// function's folder is inside its bridge's.
func (h *Host) upstream(b BDF) (BDF, bool) {
	to, err := h.tree.link(functionPath(b))
	if err != nil {
		return BDF{}, false
	}
	return parseBDF(filepath.Base(filepath.Dir(to)))
}

func joinBDFs(list []BDF) string {
	texts := make([]string, len(list))
	for i, b := range list {
		texts[i] = b.String()
	}
	return joinAnd(texts)
}

// String returns the text as one paragraph.
func (i Isolation) String() string { return strings.Join(i.Text, " ") }
