package virtio_test

import (
	"sync"

	"github.com/stile-vmm/stile/devices/pci"
	"github.com/stile-vmm/stile/devices/virtio/virtiotest"
	"github.com/stile-vmm/stile/devices/virtq/virtqtest"
)

// hostileCase is one thing that no driver of good will does.
type hostileCase struct {
	name   string
	attack func(*victim)
}

// onQueues brings the device up, breaks each of its queues in turn, and starts anew for the next.
func onQueues(breakIt func(*victim, *virtqtest.Ring)) func(*victim) {
	return func(v *victim) {
		for i := range v.queues() {
			v.start()
			breakIt(v, v.d.Rings[i])
			v.d.Kick(i)
			v.settle()
		}
	}
}

// descriptor makes one descriptor available.
func descriptor(addr uint64, n uint32, flags, next uint16) func(*victim) {
	return onQueues(func(_ *victim, r *virtqtest.Ring) {
		r.SetDesc(0, addr, n, flags, next)
		r.Publish(0)
	})
}

// indirect makes a table of descriptors available.
func indirect(n uint32, flags uint16, table func(v *victim, b []byte)) func(*victim) {
	return onQueues(func(v *victim, r *virtqtest.Ring) {
		table(v, v.buf)
		r.SetDesc(0, v.ram, n, virtqtest.Indirect|flags, 1)
		r.SetDesc(1, v.ram, 1, 0, 0)
		r.Publish(0)
	})
}

// chain makes one chain of buffers within the attack's memory available, filled at random.
func chain(bufs ...virtqtest.Buf) func(*victim) {
	return onQueues(func(v *victim, r *virtqtest.Ring) {
		v.fill()
		at := make([]virtqtest.Buf, len(bufs))
		for i, b := range bufs {
			b.Addr += v.ram
			at[i] = b
		}
		r.Add(at...)
	})
}

// register brings the device up and writes a register of the common configuration.
func register(off uint64, n int, values ...uint64) func(*victim) {
	return func(v *victim) {
		for i := range v.queues() {
			v.start()
			v.d.SetCommon(virtiotest.QueueSelect, 2, uint64(i))
			for _, value := range values {
				v.d.SetCommon(off, n, value)
				v.d.Kick(i)
			}
			v.settle()
		}
	}
}

// early writes a register of a queue before the queue is enabled, and goes on as if all were well.
func early(off uint64, n int, values ...uint64) func(*victim) {
	return func(v *victim) {
		for _, value := range values {
			v.d.Reset()
			v.d.Accept(v.d.Features())
			for i := range v.queues() {
				v.d.SetupQueueWith(i, v.d.Features(), 0xffff, func() { v.d.SetCommon(off, n, value) })
			}
			v.d.SetCommon(virtiotest.Status, 1, 0xf)
			v.kickAll()
			v.settle()
		}
	}
}

// widths calls fn with every width and every offset of a window of n bytes and a little beyond.
func widths(n uint64, fn func(off uint64, width int)) {
	for off := range n + 8 {
		for _, width := range []int{1, 2, 4, 8} {
			fn(off, width)
		}
	}
}

const garbage = 0xfedcba9876543210

func putIndirect(b []byte, i int, addr uint64, n uint32, flags, next uint16) {
	virtqtest.PutDesc(b[16*i:], addr, n, flags, next)
}

// hostileCases are run against every device by testHostile.
var hostileCases = []hostileCase{
	// Descriptors.
	{"descriptor that follows itself", descriptor(0, 1, virtqtest.Next, 0)},
	{"loop of two descriptors", onQueues(func(v *victim, r *virtqtest.Ring) {
		r.SetDesc(0, v.ram, 1, virtqtest.Next, 1)
		r.SetDesc(1, v.ram, 1, virtqtest.Next, 0)
		r.Publish(0)
	})},
	{"loop through all descriptors", onQueues(func(v *victim, r *virtqtest.Ring) {
		for i := range r.Config.Size {
			r.SetDesc(i, v.ram, 16, virtqtest.Next, (i+1)%r.Config.Size)
		}
		r.Publish(0)
	})},
	{"address beyond RAM", descriptor(1<<40, 16, 0, 0)},
	{"address at the end of RAM", descriptor(ramEnd, 1, 0, 0)},
	{"buffer across the end of RAM", descriptor(ramEnd-8, 16, virtqtest.Write, 0)},
	{"address and length overflow", descriptor(^uint64(0)-7, 16, 0, 0)},
	{"length of 4 GiB", descriptor(0, ^uint32(0), virtqtest.Write, 0)},
	{"length 0", descriptor(0, 0, 0, 0)},
	{"writable length 0", descriptor(0, 0, virtqtest.Write, 0)},
	{"next descriptor beyond the table", descriptor(0, 1, virtqtest.Next, 0xffff)},
	{"flags that don't exist", descriptor(0, 16, 0xfff8, 0)},
	{"head beyond the table", onQueues(func(_ *victim, r *virtqtest.Ring) { r.Publish(0xffff) })},
	{"readable behind writable", chain(virtqtest.Buf{Len: 16, Write: true}, virtqtest.Buf{Addr: 16, Len: 16})},
	{"one head available many times", onQueues(func(v *victim, r *virtqtest.Ring) {
		r.SetDesc(0, v.ram, 64, virtqtest.Write, 0)
		for range r.Config.Size {
			r.Publish(0)
		}
	})},
	{"available index far ahead", onQueues(func(_ *victim, r *virtqtest.Ring) { r.SetAvail(r.Config.Size + 1) })},
	{"available index goes back", onQueues(func(v *victim, r *virtqtest.Ring) {
		r.Add(virtqtest.Buf{Addr: v.ram, Len: 16})
		r.SetAvail(0xffff)
	})},
	{"buffer is the descriptor table", onQueues(func(_ *victim, r *virtqtest.Ring) {
		r.SetDesc(0, r.Config.Desc, 16*uint32(r.Config.Size), virtqtest.Write, 0)
		r.Publish(0)
	})},
	{"buffer is the available ring", onQueues(func(_ *victim, r *virtqtest.Ring) {
		r.SetDesc(0, r.Config.Avail, 4+2*uint32(r.Config.Size), virtqtest.Write, 0)
		r.Publish(0)
	})},
	{"buffer is the used ring", onQueues(func(_ *victim, r *virtqtest.Ring) {
		r.SetDesc(0, r.Config.Used, 4+8*uint32(r.Config.Size), virtqtest.Write, 0)
		r.Publish(0)
	})},

	// Indirect tables.
	{"indirect table of no bytes", indirect(0, 0, func(*victim, []byte) {})},
	{"indirect table of half a descriptor", indirect(24, 0, func(v *victim, b []byte) { putIndirect(b, 0, v.ram, 1, 0, 0) })},
	{"indirect table that goes on in the ring", indirect(16, virtqtest.Next, func(v *victim, b []byte) { putIndirect(b, 0, v.ram, 1, 0, 0) })},
	{"indirect table in an indirect table", indirect(32, 0, func(v *victim, b []byte) { putIndirect(b, 0, v.ram+16, 16, virtqtest.Indirect, 0) })},
	{"loop in an indirect table", indirect(32, 0, func(v *victim, b []byte) {
		putIndirect(b, 0, v.ram, 1, virtqtest.Next, 1)
		putIndirect(b, 1, v.ram, 1, virtqtest.Next, 0)
	})},
	{"next beyond an indirect table", indirect(16, 0, func(v *victim, b []byte) { putIndirect(b, 0, v.ram, 1, virtqtest.Next, 1) })},
	{"indirect table longer than the queue", indirect(victimRAM, 0, func(v *victim, b []byte) {
		for i := range victimRAM / 16 {
			putIndirect(b, i, v.ram, 1, virtqtest.Next, uint16(i+1))
		}
	})},
	{"indirect table beyond RAM", descriptor(1<<40, 64, virtqtest.Indirect, 0)},
	{"indirect table of 4 GiB", descriptor(0, ^uint32(15), virtqtest.Indirect, 0)},

	// Requests.
	{"nothing to read", chain(virtqtest.Buf{Len: 4096, Write: true})},
	{"nothing to write to", chain(virtqtest.Buf{Len: 4096})},
	{"one byte each", chain(virtqtest.Buf{Len: 1}, virtqtest.Buf{Addr: 1, Len: 1, Write: true})},
	{"empty buffers between", chain(virtqtest.Buf{}, virtqtest.Buf{Len: 16}, virtqtest.Buf{}, virtqtest.Buf{Write: true}, virtqtest.Buf{Addr: 64, Len: 512, Write: true})},
	{"request and response in one place", chain(virtqtest.Buf{Len: 4096}, virtqtest.Buf{Len: 4096, Write: true})},
	{"requests at random", onQueues(func(v *victim, r *virtqtest.Ring) {
		for range 200 {
			v.fill()
			n, m := v.rng.Uint32N(200), v.rng.Uint32N(600)
			r.Add(virtqtest.Buf{Addr: v.ram + v.rng.Uint64N(1000), Len: n}, virtqtest.Buf{Addr: v.ram + 4096, Len: m, Write: true})
			v.kickAll()
			r.Used()
		}
	})},
	{"requests that change while they are read", onQueues(func(v *victim, r *virtqtest.Ring) {
		for range 50 {
			r.Add(virtqtest.Buf{Addr: v.ram, Len: 4096}, virtqtest.Buf{Addr: v.ram + 2048, Len: 4096, Write: true})
			v.kickAll()
			v.fill()
			r.Used()
		}
	})},

	// Queues.
	{"queue of size 0", early(virtiotest.QueueSize, 2, 0)},
	{"queue of a size that is no power of two", early(virtiotest.QueueSize, 2, 3, 65535)},
	{"queue larger than the device's", early(virtiotest.QueueSize, 2, 32768)},
	{"size changed while the queue runs", register(virtiotest.QueueSize, 2, 1, 2, 0, 32768)},
	{"descriptor table moved while the queue runs", register(virtiotest.QueueDesc, 8, 1<<40, 0, ramEnd-16)},
	{"rings moved while the queue runs", register(virtiotest.QueueDriver, 8, 1<<40, 1, ramEnd-2)},
	{"used ring moved while the queue runs", register(virtiotest.QueueDevice, 8, 1<<40, 3, ramEnd-4)},
	{"queue disabled and enabled while it runs", register(virtiotest.QueueEnable, 2, 0, 1, 0, 1, 0xffff)},
	{"queue at odd addresses", early(virtiotest.QueueDesc, 8, 1, 0x1001)},
	{"queue beyond RAM", early(virtiotest.QueueDevice, 8, 1<<40, ^uint64(0)-3)},
	{"queue across the end of RAM", early(virtiotest.QueueDriver, 8, ramEnd-2)},
	{"rings in one place", early(virtiotest.QueueDriver, 8, 0x2000)},
	{"queue that doesn't exist", func(v *victim) {
		v.start()
		for _, i := range []uint64{uint64(v.queues()), 1024, 0xffff} {
			v.d.SetCommon(virtiotest.QueueSelect, 2, i)
			for _, off := range []uint64{virtiotest.QueueSize, virtiotest.QueueVector, virtiotest.QueueEnable} {
				v.d.SetCommon(off, 2, 1)
			}
			if got := v.d.Common(virtiotest.QueueSize, 2); got != 0 {
				v.t.Errorf("queue %d has size %d", i, got)
			}
		}
		v.kickAll()
	}},

	// Registers.
	{"device configuration in every width", func(v *victim) {
		v.start()
		window := v.d.BAR + v.d.Caps[virtiotest.CapDevice].Off
		widths(uint64(v.info.ConfigSize), func(off uint64, width int) {
			v.m.Write(window+off, width, garbage)
			v.m.Read(window+off, width)
		})
		v.kickAll()
	}},
	{"common configuration in every width", func(v *victim) {
		widths(0x40, func(off uint64, width int) {
			if off >= virtiotest.Status-8 && off <= virtiotest.Status {
				return // may reset the device, which has a case of its own
			}
			v.d.SetCommon(off, width, garbage)
			v.d.Common(off, width)
		})
		v.kickAll()
	}},
	{"status at random", func(v *victim) {
		for range 300 {
			v.d.SetCommon(virtiotest.Status, 1, uint64(v.rng.Uint32()&0xff))
			v.d.Common(virtiotest.Status, 1)
			v.kickAll()
		}
	}},
	{"driver is ready before it has features and queues", func(v *victim) {
		v.d.Reset()
		v.d.SetCommon(virtiotest.Status, 1, virtiotest.DriverOK)
		v.kickAll()
		v.d.SetCommon(virtiotest.Status, 1, 0xf)
		v.kickAll()
	}},
	{"features that were not offered", func(v *victim) {
		v.d.Reset()
		if v.d.Accept(^uint64(0)) {
			v.t.Error("all features were accepted")
		}
		v.d.SetCommon(virtiotest.Status, 1, 0xf)
		v.kickAll()
	}},
	{"features changed while the device runs", register(virtiotest.DriverFeature, 4, 0, 0xffffffff)},
	{"driver has failed", func(v *victim) {
		v.start()
		v.d.SetCommon(virtiotest.Status, 1, 0x80|0xf)
		v.kickAll()
	}},
	{"vectors that don't exist", func(v *victim) {
		v.start()
		v.d.SetCommon(virtiotest.ConfigVector, 2, 0x7ff)
		for i := range v.queues() {
			v.d.SetCommon(virtiotest.QueueSelect, 2, uint64(i))
			v.d.SetCommon(virtiotest.QueueVector, 2, 0x1234)
			if got := v.d.Common(virtiotest.QueueVector, 2); got != 0xffff {
				v.t.Errorf("vector %#x was accepted", got)
			}
			v.d.Rings[i].Add(virtqtest.Buf{Addr: v.ram, Len: 64, Write: true})
		}
		v.kickAll()
		v.settle()
	}},
	{"MSI-X table at random", func(v *victim) {
		v.start()
		table := v.d.BAR + v.d.Config(v.d.MSIX+4, 4)&^7
		for range 200 {
			v.m.Write(table+v.rng.Uint64N(16*uint64(v.queues()+4))&^3, 4, uint64(v.rng.Uint32()))
			v.d.SetConfig(v.d.MSIX+2, 2, uint64(v.rng.Uint32()&0xffff))
			v.kickAll()
		}
	}},
	{"config space at random", func(v *victim) {
		v.start()
		for range 500 {
			off := v.rng.IntN(4096)
			if off >= pci.RegBAR0-4 && off < pci.RegBAR0+24 || off < 8 {
				continue // where the BAR is and whether it is decoded have a case of their own
			}
			v.d.SetConfig(off, 1<<v.rng.IntN(3), uint64(v.rng.Uint32()))
		}
		v.kickAll()
	}},
	{"window of the configuration at random", func(v *victim) {
		v.start()
		for range 300 {
			v.d.SetConfig(v.d.PCICfg+4, 1, uint64(v.rng.IntN(6)))
			v.d.SetConfig(v.d.PCICfg+8, 4, uint64(v.rng.Uint32N(0x10000)))
			v.d.SetConfig(v.d.PCICfg+12, 4, uint64(v.rng.Uint32N(10)))
			v.d.SetConfig(v.d.PCICfg+16, 4, uint64(v.rng.Uint32()))
			v.d.Config(v.d.PCICfg+16, 4)
		}
	}},
	{"interrupt status storm", func(v *victim) {
		v.start()
		for range 1000 {
			v.d.ISR()
			v.m.Write(v.d.BAR+v.d.Caps[virtiotest.CapISR].Off, 1, garbage)
		}
	}},

	// The bus.
	{"device taken off the bus while it runs", func(v *victim) {
		v.start()
		for range 50 {
			v.kickAll()
			v.d.SetConfig(pci.RegCommand, 2, 0)
			v.kickAll()
			v.d.SetConfig(pci.RegCommand, 2, pci.CommandMemory)
		}
	}},
	{"registers moved onto RAM, config space and the end of the world", func(v *victim) {
		v.start()
		for _, to := range []uint64{0, 0x1000, v.ram &^ 0xffff, 0xe0000000, 0xfee00000, ^uint64(0xfffff), 1 << 51} {
			v.d.SetConfig(pci.RegBAR0, 4, to&0xffffffff)
			v.d.SetConfig(pci.RegBAR0+4, 4, to>>32)
			v.kickAll()
		}
	}},

	// Doorbells and resets.
	{"doorbells of queues that don't exist", func(v *victim) {
		v.start()
		n := v.d.Caps[virtiotest.CapNotify]
		for i := range uint64(2048) {
			v.m.Write(v.d.BAR+n.Off+i*2, 2, i)
		}
	}},
	{"doorbells in every width", func(v *victim) {
		v.start()
		n := v.d.Caps[virtiotest.CapNotify]
		widths(n.Len, func(off uint64, width int) {
			v.m.Write(v.d.BAR+n.Off+off, width, garbage)
			v.m.Read(v.d.BAR+n.Off+off, width)
		})
	}},
	{"doorbells before the driver is ready", func(v *victim) {
		v.d.Reset()
		v.kickAll()
		v.d.Accept(v.d.Features())
		v.kickAll()
	}},
	{"doorbell storm with nothing to do", func(v *victim) {
		v.start()
		for range 2000 {
			v.kickAll()
		}
	}},
	{"reset with requests in flight", func(v *victim) {
		for range 20 {
			v.start()
			for _, r := range v.d.Rings {
				for range 8 {
					r.Add(virtqtest.Buf{Addr: v.ram, Len: 100}, virtqtest.Buf{Addr: v.ram + 512, Len: 2000, Write: true})
				}
			}
			v.kickAll()
			v.d.SetCommon(virtiotest.Status, 1, 0)
			v.kickAll()
		}
	}},
	{"reset, doorbells and queues from several processors", func(v *victim) {
		var all sync.WaitGroup
		for n := range 3 {
			all.Go(func() {
				for i := range 60 {
					switch (i + n) % 4 {
					case 0:
						v.d.SetCommon(virtiotest.Status, 1, 0)
					case 1:
						v.d.SetCommon(virtiotest.QueueSelect, 2, uint64(i%max(v.queues(), 1)))
						v.d.SetCommon(virtiotest.QueueDriver, 8, 0x2000)
						v.d.SetCommon(virtiotest.QueueDevice, 8, 0x3000)
						v.d.SetCommon(virtiotest.QueueEnable, 2, 1)
					case 2:
						v.d.Accept(1 << 32)
						v.d.SetCommon(virtiotest.Status, 1, 0xf)
					case 3:
						v.kickAll()
					}
				}
			})
		}
		all.Wait()
	}},
}
