package passthrough

import (
	"encoding/binary"

	"github.com/stile-vmm/stile/devices/pci"
)

// readConfig replaces in p, which the guest reads at off, what the device answers.
func (f *Function) readConfig(off int, p []byte) {
	n := min(len(p), f.cfg.size-off)
	if n <= 0 || !f.cfg.touches(off, n) {
		return
	}
	var buf [8]byte
	for n > 0 {
		part := buf[:min(n, len(buf))]
		f.configReads.Add(1)
		if _, err := f.hw.Config().ReadAt(part, int64(off)); err != nil {
			f.failed.Add(1)
			for i := range part {
				part[i] = 0xff
			}
		}
		for i, v := range part {
			mask := f.cfg.passed[off+i]
			p[i] = p[i]&^mask | v&mask
		}
		off, p, n = off+len(part), p[len(part):], n-len(part)
	}
}

// writeConfig passes on what the guest wrote at off: COMMAND from its shadow, what the device
// answers as it is, at the width that the guest used.
func (f *Function) writeConfig(off int, p []byte) {
	end := off + len(p)
	if off < pci.RegCommand+2 && pci.RegCommand < end {
		f.shadowCommand(off, p)
		f.note(f.writeCommand(f.command))
	}
	for at := off; at < end; {
		if f.passed(at) == 0 {
			at++
			continue
		}
		stop := at + 1
		for stop < end && f.passed(stop) != 0 {
			stop++
		}
		f.forward(at, p[at-off:stop-off])
		at = stop
	}
	f.notePower(off, len(p))
}

func (f *Function) passed(at int) byte {
	if at >= f.cfg.size {
		return 0
	}
	return f.cfg.passed[at]
}

func (f *Function) forward(off int, p []byte) {
	f.configWrites.Add(1)
	_, err := f.hw.Config().WriteAt(p, int64(off))
	f.note(err)
}

// note counts an access that failed. The guest sees ones, or that nothing happened.
func (f *Function) note(err error) {
	if err != nil {
		f.failed.Add(1)
	}
}

// guestCommand returns the bits of COMMAND that the guest decides: those that package pci lets
// it write.
func (f *Function) guestCommand() uint16 {
	mask := uint16(pci.CommandMaster | commandParity | commandSERR)
	if f.hasIO {
		mask |= pci.CommandIO
	}
	if f.hasMemory {
		mask |= pci.CommandMemory
	}
	if f.interrupts.hasPin {
		mask |= pci.CommandINTxDisable
	}
	return mask
}

const (
	commandParity = 1 << 6
	commandSERR   = 1 << 8
)

func (f *Function) shadowCommand(off int, p []byte) {
	for i, v := range p {
		switch off + i {
		case pci.RegCommand:
			f.command = f.command&0xff00 | uint16(v)
		case pci.RegCommand + 1:
			f.command = f.command&0xff | uint16(v)<<8
		}
	}
	f.command &= f.guestCommand()
}

func (f *Function) writeCommand(v uint16) error {
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], v)
	f.configWrites.Add(1)
	_, err := f.hw.Config().WriteAt(b[:], pci.RegCommand)
	return err
}

// byteAt returns what a write of p at off puts to a register's byte.
func byteAt(off int, p []byte, at int) (byte, bool) {
	if at < off || at >= off+len(p) {
		return 0, false
	}
	return p[at-off], true
}

// endsDecode reports whether a write makes the device stop answering: it leaves power state
// D0, or is reset.
func (f *Function) endsDecode(off int, p []byte) bool {
	if c := f.desc.find(capPM); c != nil {
		if v, ok := byteAt(off, p, c.off+pmControl); ok && v&pmStateMask != 0 {
			return true
		}
	}
	if c := f.desc.find(capPCIe); c != nil {
		if v, ok := byteAt(off, p, c.off+pcieFLRByte); ok && v&pcieFLRBit != 0 {
			return true
		}
	}
	if c := f.desc.find(capAF); c != nil {
		if v, ok := byteAt(off, p, c.off+afFLRByte); ok && v&afFLR != 0 {
			return true
		}
	}
	return false
}

// notePower asks the device for its power state after a write that may have changed it.
func (f *Function) notePower(off, n int) {
	c := f.desc.find(capPM)
	if c == nil || off >= c.off+pmControl+2 || c.off+pmControl >= off+n {
		return
	}
	var b [2]byte
	f.configReads.Add(1)
	_, err := f.hw.Config().ReadAt(b[:], int64(c.off+pmControl))
	f.note(err)
	f.powerState = b[0] & pmStateMask
}

func (f *Function) powered() bool { return f.powerState == 0 }

// sync gives the device the COMMAND that the guest's function begins with, and reads the power
// state that it is in.
func (f *Function) sync() error {
	f.command = 0
	if c := f.desc.find(capPM); c != nil {
		f.notePower(c.off+pmControl, 2)
	}
	return f.writeCommand(0)
}

// reset is called when the guest's machine is reset, without the function's lock and with no
// vCPU running.
func (f *Function) reset() { f.note(f.sync()) }
