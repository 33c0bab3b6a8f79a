package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func machine(t *testing.T) Machine {
	t.Helper()
	m, err := (&Config{}).machine()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestArgs(t *testing.T) {
	m := machine(t)
	got := m.args(&backend{ram: "/cache/a,b/ram.img", root: "/", tmp: "/tmp", empty: "/cache/empty", qmp: 3, agent: 4, console: 5})
	var shares, devices string
	for i := range maxWritable {
		shares += fmt.Sprintf(" -fsdev local,id=hostrw%d,security_model=none,readonly=on,multidevs=remap,path=/cache/empty", i)
		devices += fmt.Sprintf(" -device virtio-9p-pci,addr=%#x.%d,multifunction=on,disable-legacy=on,fsdev=hostrw%d,mount_tag=hostrw%[3]d", 7+i/8, i%8, i)
	}
	want := strings.Fields(`
		-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
		-object memory-backend-file,id=ram0,size=2048M,share=off,mem-path=/cache/a,,b/ram.img
		-fsdev local,id=host,security_model=none,readonly=on,multidevs=remap,path=/
		-fsdev local,id=hosttmp,security_model=none,readonly=on,multidevs=remap,path=/tmp
		` + shares + `
		-chardev socket,id=qmp,fd=3 -qmp chardev:qmp
		-chardev socket,id=agent,fd=4 -chardev socket,id=console,fd=5
		-nodefaults -no-user-config -nic none -display none -no-reboot
		-machine q35,accel=tcg,memory-backend=ram0
		-cpu max,la57=off,erms=off,fsrm=off -smp 1 -m 2048M
		-serial chardev:console
		-device virtio-serial-pci,addr=0x4,disable-legacy=on,max_ports=2
		-device virtserialport,nr=1,chardev=agent,name=stile.agent
		-device virtio-9p-pci,addr=0x5,disable-legacy=on,fsdev=host,mount_tag=host
		-device virtio-9p-pci,addr=0x6,disable-legacy=on,fsdev=hosttmp,mount_tag=hosttmp` + devices)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if !slices.Contains(m.args(&backend{shared: true}), "memory-backend-file,id=ram0,size=2048M,share=on,mem-path=") {
		t.Error("a shared memory file is not shared")
	}
}

func TestKeyTellsMachinesApart(t *testing.T) {
	q := &QEMU{Identity: "qemu"}
	m := machine(t)
	base := m.key(q, "kernel")
	if base != m.key(q, "kernel") || len(base) != 16 {
		t.Fatalf("key %q is not stable", base)
	}
	seen := map[string]string{base: "base"}
	for name, key := range map[string]string{
		"qemu":     m.key(&QEMU{Identity: "other"}, "kernel"),
		"kernel":   m.key(q, "other"),
		"mem":      changed(m, func(m *Machine) { m.Mem *= 2 }).key(q, "kernel"),
		"cpus":     changed(m, func(m *Machine) { m.CPUs++ }).key(q, "kernel"),
		"cpu":      changed(m, func(m *Machine) { m.CPU = "max" }).key(q, "kernel"),
		"topology": changed(m, func(m *Machine) { m.Topology = Topologies()[1] }).key(q, "kernel"),
		"cmdline":  changed(m, func(m *Machine) { m.Cmdline += " x" }).key(q, "kernel"),
	} {
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s have the key %s", name, other, key)
		}
		seen[key] = name
	}
}

func changed(m Machine, change func(*Machine)) *Machine {
	change(&m)
	return &m
}

func TestMachineSizes(t *testing.T) {
	for _, tt := range []struct{ guest, want int64 }{
		{0, 2048}, {512, 2048}, {1280, 2048}, {1281, 4096}, {3328, 4096}, {3329, 8192}, {16384, 32768},
	} {
		m, err := (&Config{GuestMem: tt.guest * MiB}).machine()
		if err != nil || m.Mem != tt.want*MiB {
			t.Errorf("a guest of %d MiB: %d MiB, %v; want %d", tt.guest, m.Mem/MiB, err, tt.want)
		}
	}
	for name, bad := range map[string]Config{
		"negative":       {GuestMem: -1},
		"too much":       {GuestMem: MaxMem},
		"overflow":       {GuestMem: 1 << 62},
		"negative CPUs":  {CPUs: -1},
		"too many CPUs":  {CPUs: MaxCPUs + 1},
		"little memory":  {Mem: leastMem - MiB},
		"half a MiB":     {Mem: leastMem + MiB/2},
		"much memory":    {Mem: MaxMem + MiB},
		"a bad topology": {Topology: &Topology{InterruptRemapping: true}},
	} {
		if m, err := bad.machine(); err == nil {
			t.Errorf("%s: %+v, want an error", name, m)
		}
	}
}

func TestCPUName(t *testing.T) {
	const one = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: EPYC 7B13\nstepping\t: 0\ncpu MHz\t\t: 2450.0\n\n"
	want := "AuthenticAMD 25 1 EPYC 7B13 0"
	for _, cpuinfo := range []string{one, one + strings.ReplaceAll(one, ": 0", ": 1"), strings.ReplaceAll(one, "2450", "3000")} {
		if got := cpuName(cpuinfo); got != want {
			t.Errorf("cpuName(%q) = %q, want %q", cpuinfo, got, want)
		}
	}
}

func TestTail(t *testing.T) {
	log := newTail(20)
	for range 100 {
		log.Write([]byte("0123456789\r\n\n"))
	}
	log.Write([]byte("end"))
	if got, want := log.lines(5), []string{"0123456789", "end"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
	if len(log.buf) > 40 {
		t.Errorf("%d bytes kept of 20", len(log.buf))
	}
	if got := newTail(20).lines(3); len(got) != 0 {
		t.Errorf("lines of nothing: %q", got)
	}
}
