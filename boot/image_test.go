package boot

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// testSegment is a PT_LOAD of an ELF file under test.
type testSegment struct {
	virt, phys uint64
	data       []byte
	memSize    uint64 // 0: len(data)
}

// testNote is an ELF note.
type testNote struct {
	name string
	typ  uint32
	desc []byte
}

// testELF is an ELF file to build: by default 64-bit, executable, x86-64.
type testELF struct {
	entry    uint64
	segments []testSegment
	notes    []testNote
}

// smallELF is a kernel of 64 bytes at 1 MiB.
func smallELF() testELF {
	return testELF{entry: layout.HighRAM, segments: []testSegment{{phys: layout.HighRAM, data: bytes.Repeat([]byte{0xf4}, 64)}}}
}

func (e testELF) with(notes ...testNote) testELF {
	e.notes = append(e.notes, notes...)
	return e
}

func pvhNote(entry uint64) testNote {
	return testNote{"Xen", 18, binary.LittleEndian.AppendUint64(nil, entry)}
}

func linuxNote() testNote { return testNote{"Linux", 0x100, []byte{0}} }

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (n testNote) bytes() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(n.name)+1))
	b = le.AppendUint32(b, uint32(len(n.desc)))
	b = le.AppendUint32(b, n.typ)
	b = pad4(append(append(b, n.name...), 0))
	return pad4(append(b, n.desc...))
}

func (e testELF) bytes() []byte {
	le := binary.LittleEndian
	var notes []byte
	for _, n := range e.notes {
		notes = append(notes, n.bytes()...)
	}
	progs := len(e.segments)
	if len(notes) > 0 {
		progs++
	}
	h := make([]byte, elfHeaderSize)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], elfTypeExec)
	le.PutUint16(h[18:], elfMachineX64)
	le.PutUint64(h[24:], e.entry)
	le.PutUint64(h[32:], elfHeaderSize)
	le.PutUint16(h[54:], elfProgSize)
	le.PutUint16(h[56:], uint16(progs))
	data := make([]byte, 0, 1024)
	prog := func(typ uint32, s testSegment) {
		off := uint64(elfHeaderSize + progs*elfProgSize + len(data))
		h = le.AppendUint32(h, typ)
		h = le.AppendUint32(h, 7)
		for _, v := range []uint64{off, s.virt, s.phys, uint64(len(s.data)), max(s.memSize, uint64(len(s.data))), 4} {
			h = le.AppendUint64(h, v)
		}
		data = append(data, s.data...)
	}
	for _, s := range e.segments {
		prog(elfProgLoad, s)
	}
	if len(notes) > 0 {
		prog(elfProgNote, testSegment{data: notes})
	}
	return append(h, data...)
}

// testBzImage is a bzImage to build around a compressed payload, which has the unpacked
// size behind it.
type testBzImage struct {
	version  uint16
	xload    uint16
	pref     uint64
	initSize uint32
	payload  []byte
}

func smallBzImage(payload []byte) testBzImage {
	return testBzImage{version: 0x20f, xload: xlfKernel64, pref: layout.KernelEntry, initSize: 2 * layout.MiB, payload: payload}
}

func (z testBzImage) bytes() []byte {
	le := binary.LittleEndian
	const sects, payloadOffset = 3, 0x300
	b := make([]byte, (sects+1)*sector)
	code := make([]byte, payloadOffset)
	for i := range code {
		code[i] = byte(i) | 1
	}
	code = append(code, z.payload...)
	for len(code)%16 != 0 {
		code = append(code, 0)
	}
	b[0x1ef] = 0xff // the sentinel
	b[hdrSetupSects] = sects
	le.PutUint32(b[hdrSysSize:], uint32(len(code)/16))
	le.PutUint16(b[hdrBootFlag:], bootFlag)
	b[hdrJump] = 0x6a
	copy(b[hdrMagic:], hdrHdrS)
	le.PutUint16(b[hdrVersion:], z.version)
	b[hdrLoadFlags] = loadedHigh | kaslrFlag
	le.PutUint32(b[hdrInitrdAddrMax:], 0x7fffffff)
	le.PutUint32(b[hdrAlignment:], 2*layout.MiB)
	b[hdrRelocatable] = 1
	le.PutUint16(b[hdrXLoadFlags:], z.xload)
	le.PutUint32(b[hdrCmdlineSize:], 1023)
	le.PutUint32(b[hdrPayloadOffset:], payloadOffset)
	le.PutUint32(b[hdrPayloadLength:], uint32(len(z.payload)))
	le.PutUint64(b[hdrSetupData:], 0x1234)
	le.PutUint64(b[hdrPrefAddress:], z.pref)
	le.PutUint32(b[hdrInitSize:], z.initSize)
	return append(b, code...)
}

// appendSize puts the unpacked size behind a compressed payload, as the kernel's build does.
func appendSize(payload []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(payload), uint32(size))
}

func newKernel(t testing.TB, image []byte) *Kernel {
	t.Helper()
	k, err := NewKernel("test", bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newMemory(t testing.TB, ranges ...layout.Range) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New(ranges)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func guestBytes(t testing.TB, m *guestmem.Memory, gpa uint64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := m.Read(gpa, b); err != nil {
		t.Fatalf("reading %d bytes at %#x: %v", n, gpa, err)
	}
	return b
}

func newInitrd(name string, data []byte) *Initrd {
	return &Initrd{Name: name, Data: bytes.NewReader(data), Size: int64(len(data))}
}
