package lab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShippedTopologies(t *testing.T) {
	seen := make(map[string]bool)
	for _, topology := range Topologies() {
		if err := topology.Validate(); err != nil {
			t.Error(err)
		}
		if seen[topology.Name] || topology.Name == "" {
			t.Errorf("the name %q is there twice, or empty", topology.Name)
		}
		seen[topology.Name] = true
		data, err := json.Marshal(topology)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseTopology(data)
		if err != nil {
			t.Fatalf("%s: %v", topology.Name, err)
		}
		if diff := cmp.Diff(topology, *back); diff != "" {
			t.Errorf("%s as JSON (-want +got):\n%s", topology.Name, diff)
		}
	}
}

func TestFunctionsFollowTheBuses(t *testing.T) {
	edu := Device{Kind: EDU}
	topology := Topology{Ports: []Port{
		{Devices: []Device{edu}},
		{Devices: []Device{edu, {Kind: E1000E}}},
		{Bridge: true, Devices: []Device{edu, edu}},
		{},
		{Devices: []Device{{Kind: NVMe}}},
	}}
	want := []Function{
		{"0000:01:00.0", edu, 0},
		{"0000:02:00.0", edu, 1}, {"0000:02:00.1", Device{Kind: E1000E}, 1},
		{"0000:04:01.0", edu, 2}, {"0000:04:02.0", edu, 2},
		{"0000:06:00.0", Device{Kind: NVMe}, 4},
	}
	if diff := cmp.Diff(want, topology.Functions()); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
}

func TestDevicesOfAMachine(t *testing.T) {
	topology := Topology{IOMMU: true, InterruptRemapping: true, Ports: []Port{
		{Devices: []Device{{Kind: EDU}, {Kind: E1000E}}},
		{Bridge: true, Devices: []Device{{Kind: VirtioBlk}}},
		{Devices: []Device{{Kind: NVMe, VFs: 2}}},
	}}
	want := strings.Fields(`
		-device intel-iommu,intremap=on
		-device pcie-root-port,id=port0,chassis=1,slot=1,addr=0x10
		-device pcie-root-port,id=port1,chassis=2,slot=2,addr=0x11
		-device pcie-pci-bridge,id=bridge1,bus=port1
		-device pcie-root-port,id=port2,chassis=3,slot=3,addr=0x12
		-device e1000e,romfile=,id=dev0_1,bus=port0,addr=0.1,netdev=dev0_1b
		-device edu,id=dev0_0,bus=port0,addr=0.0,multifunction=on
		-device virtio-blk-pci,disable-legacy=on,iommu_platform=on,id=dev1_0,bus=bridge1,addr=1,drive=dev1_0b`)
	if diff := cmp.Diff(want, topology.frontend()); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	late := []map[string]any{{
		"driver": "nvme", "id": "dev2_0", "bus": "port2", "addr": "0.0", "serial": "dev2_0",
		"subsys": "dev2_0s", "sriov_max_vfs": 2, "sriov_vq_flexible": 4, "sriov_vi_flexible": 2,
	}}
	if diff := cmp.Diff(late, topology.late()); diff != "" {
		t.Errorf("late devices (-want +got):\n%s", diff)
	}
}

func TestMedia(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	topology := Topology{Ports: []Port{{Devices: []Device{{Kind: NVMe}, {Kind: VirtioBlk, File: file}, {Kind: VirtioNet}}}}}
	m, err := topology.openMedia(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := strings.Fields(`
		-netdev user,restrict=on,id=dev0_2b
		-drive if=none,id=dev0_1b,format=raw,file=/dev/fd/6
		-drive if=none,id=dev0_0b,format=raw,file=/dev/fd/7`)
	if diff := cmp.Diff(want, m.args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	info, err := m.files[1].Stat()
	if err != nil || info.Size() != defaultStorage*MiB {
		t.Errorf("the nvme's file has %v bytes, %v", info.Size(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	topology.Ports[0].Devices[1].File += "-missing"
	if _, err := topology.openMedia(dir); err == nil || !strings.Contains(err.Error(), "virtio-blk 0000:01:00.1") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestBadTopologies(t *testing.T) {
	edu := `{"devices": [{"kind": "edu"}]}`
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":        {"", "EOF"},
		"two":            {"{} {}", "more than one"},
		"unknown field":  {`{"iomu": true}`, "iomu"},
		"unknown kind":   {`{"ports": [{"devices": [{"kind": "gpu"}]}]}`, "must be one of e1000e, edu"},
		"remapping only": {`{"interrupt_remapping": true}`, "needs an IOMMU"},
		"ports":          {`{"ports": [` + strings.Repeat(edu+",", maxPorts) + edu + `]}`, "at most 15"},
		"functions":      {`{"ports": [{"devices": [` + strings.Repeat(`{"kind": "edu"},`, 8) + `{"kind": "edu"}]}]}`, "at most 8"},
		"size":           {`{"ports": [{"devices": [{"kind": "edu", "size_mib": 1}]}]}`, "no storage"},
		"negative":       {`{"ports": [{"devices": [{"kind": "nvme", "size_mib": -1}]}]}`, "are possible"},
		"no power of 2":  {`{"ports": [{"devices": [{"kind": "ivshmem", "size_mib": 3}]}]}`, "power of two"},
		"file":           {`{"ports": [{"devices": [{"kind": "edu", "file": "x"}]}]}`, "no disk"},
		"ROM":            {`{"ports": [{"devices": [{"kind": "edu", "rom": "x"}]}]}`, "has no rom"},
		"VFs":            {`{"ports": [{"devices": [{"kind": "edu", "vfs": 1}]}]}`, "nvme has"},
		"VFs and a size": {`{"ports": [{"devices": [{"kind": "nvme", "vfs": 1, "size_mib": 1}]}]}`, "no storage"},
		"VFs in company": {`{"ports": [{"devices": [{"kind": "nvme", "vfs": 1}, {"kind": "edu"}]}]}`, "port of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseTopology([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestFindTopology(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.json")
	if err := os.WriteFile(file, []byte(`{"name": "mine", "ports": [{"devices": [{"kind": "edu"}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": plainName, "bridge": "bridge", file: "mine"} {
		if got, err := FindTopology(name); err != nil || got.Name != want {
			t.Errorf("FindTopology(%q) = %+v, %v; want %s", name, got, err, want)
		}
	}
	if _, err := FindTopology("brigde"); err == nil || !strings.Contains(err.Error(), "neither a file nor one of plain, singleton") {
		t.Errorf("a wrong name: %v", err)
	}
	if _, err := FindTopology("./missing"); err == nil {
		t.Error("a missing file is found")
	}
}

func FuzzParseTopology(f *testing.F) {
	for _, topology := range Topologies() {
		data, _ := json.Marshal(topology)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		topology, err := ParseTopology(data)
		if err != nil {
			return
		}
		addresses := topology.addresses()
		slices.Sort(addresses)
		if unique := len(slices.Compact(addresses)); unique != len(topology.Functions()) {
			t.Errorf("%d functions at %d addresses", len(topology.Functions()), unique)
		}
		if len(topology.frontend())/2+len(topology.late()) < unique(topology) {
			t.Error("a device is missing")
		}
	})
}

func unique(t *Topology) int { return len(t.Functions()) + len(t.Ports) }
