package mdev_test

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/hostpci"
	"github.com/stile-vmm/stile/mdev"
)

func TestDefinitions(t *testing.T) {
	tree, k, h := newHost(t)
	if list, err := h.Definitions(); err != nil || len(list) != 0 {
		t.Errorf("definitions %+v, %v", list, err)
	}
	tree.Write("/etc/mdevctl.d/"+nic+"/"+uuidA, `{"mdev_type": "type1", "start": "auto", "attrs": [{"attribute": "1"}, {"vendor/x": "2"}]}`)
	tree.Write("/etc/mdevctl.d/mtty/"+uuidB, `{"mdev_type": "a-1", "start": "manual"}`)
	tree.Write("/etc/mdevctl.d/mtty/notes.txt", "mine")
	tree.Write("/etc/mdevctl.d/scripts.d/"+uuidB, "#!/bin/sh")
	list, err := h.Definitions()
	check(t, err)
	want := []mdev.Definition{
		{UUID: uuidA, Parent: nic, Type: "type1", Start: "auto", Attributes: []mdev.Attribute{{Name: "attribute", Value: "1"}, {Name: "vendor/x", Value: "2"}}},
		{UUID: uuidB, Parent: "mtty", Type: "a-1", Start: "manual", Attributes: []mdev.Attribute{}},
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("definitions %+v, want %+v", list, want)
	}

	_, err = h.PCI().Bind([]hostpci.BDF{bdf(t, nic)}, hostpci.BindOptions{Driver: hostpci.DonorDriver, Keep: true})
	check(t, err)
	k.before = func(_ int, w hostpci.Write) error {
		if strings.HasSuffix(w.Path, "/vendor/x") {
			return unix.EINVAL
		}
		return nil
	}
	wantError(t, h.CreateDefined(list[0]), "set attribute vendor/x", `to "2"`)
	if k.there(uuidA) {
		t.Error("the device is left")
	}
	list[0].Attributes = list[0].Attributes[:1]
	check(t, h.CreateDefined(list[0]))
	last := k.writes[len(k.writes)-1]
	if last != (hostpci.Write{Path: "/sys/bus/mdev/devices/" + uuidA + "/attribute", Value: "1"}) {
		t.Errorf("last write %v", last)
	}
}

func TestBadDefinitions(t *testing.T) {
	tree, _, h := newHost(t)
	for _, text := range []string{
		"", "[]", "{}", `{"mdev_type": "../x"}`, `{"mdev_type": 1}`, `{"mdev_type": "a", "attrs": [{"../../remove": "1"}]}`,
		`{"mdev_type": "a", "attrs": [{"a": "1", "b": "2"}]}`, `{"mdev_type": "a", "attrs": [{"a/b/c": "1"}]}`,
	} {
		tree.Write("/etc/mdevctl.d/mtty/"+uuidA, text)
		list, err := h.Definitions()
		wantError(t, err, "/etc/mdevctl.d/mtty/"+uuidA)
		if len(list) != 0 {
			t.Errorf("%s: %+v", text, list)
		}
	}
}
