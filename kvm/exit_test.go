package kvm

import (
	"bytes"
	"fmt"
	"testing"
)

// hlt
var hlt = []byte{0xf4}

func TestEntryModes(t *testing.T) {
	// mov eax, 0x12345678 (16-bit code needs the prefix); out dx, al; hlt
	tests := map[string]struct {
		enter func(*guest, *VCPU, ...[]byte)
		code  []byte
		mode  string
	}{
		"real": {(*guest).realMode, code(
			0xb0, 0x78, // mov al, 0x78
			0xba, uint16(testPort), // mov dx, testPort
			0xee, // out dx, al
			0xf4), "real mode"},
		"protected": {(*guest).protectedMode, code(
			0xb8, uint32(0x12345678), // mov eax, 0x12345678
			0x66, 0xba, uint16(testPort), // mov dx, testPort
			0xee, 0xf4), "32-bit protected mode"},
		"long": {(*guest).longMode, code(
			0xb8, uint32(0x12345678),
			0x66, 0xba, uint16(testPort),
			0xee, 0xf4), "64-bit mode"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, false)
			c := g.vcpu(0)
			test.enter(g, c, test.code)
			io := g.next(c, ExitIO).IO()
			if io.Port != testPort || !io.Out || io.Size != 1 || io.Count != 1 || !bytes.Equal(io.Data, []byte{0x78}) {
				t.Errorf("got %+v", io)
			}
			g.next(c, ExitHLT)
			r, err := c.Regs()
			check(t, err)
			s, err := c.Sregs()
			check(t, err)
			if got := mode(r, s); got != test.mode {
				t.Errorf("mode %q, want %q", got, test.mode)
			}
		})
	}
}

func TestPortIO(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(
		0x66, 0xba, uint16(testPort), // mov dx, testPort
		0xb8, uint32(0xa1b2c3d4), // mov eax, 0xa1b2c3d4
		0xee,       // out dx, al
		0x66, 0xef, // out dx, ax
		0xef, // out dx, eax
		0xec, // in al, dx
		0xed, // in eax, dx
		0xf4))
	for _, want := range [][]byte{{0xd4}, {0xd4, 0xc3}, {0xd4, 0xc3, 0xb2, 0xa1}} {
		io := g.next(c, ExitIO).IO()
		if !io.Out || io.Size != len(want) || !bytes.Equal(io.Data, want) {
			t.Errorf("got %+v, want OUT of % x", io, want)
		}
	}
	io := g.next(c, ExitIO).IO()
	if io.Out || len(io.Data) != 1 {
		t.Fatalf("got %+v, want IN of 1 byte", io)
	}
	io.Data[0] = 0x5a
	io = g.next(c, ExitIO).IO()
	if r, err := c.Regs(); err != nil || r.RAX != 0xa1b2c35a {
		t.Errorf("after IN of 1 byte: rax %#x (%v), want 0xa1b2c35a", r.RAX, err)
	}
	copy(io.Data, []byte{1, 2, 3, 4})
	g.next(c, ExitHLT)
	if r, err := c.Regs(); err != nil || r.RAX != 0x04030201 {
		t.Errorf("after IN of 4 bytes: rax %#x (%v), want 0x04030201", r.RAX, err)
	}
}

func TestStringPortIO(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(
		0x66, 0xba, uint16(testPort), // mov dx, testPort
		0xbe, uint32(dataAddr), // mov esi, dataAddr
		0xb9, uint32(3), // mov ecx, 3
		0xf3, 0x66, 0x6f, // rep outsw
		0xbf, uint32(dataAddr+0x100), // mov edi, dataAddr+0x100
		0xb9, uint32(4), // mov ecx, 4
		0xf3, 0x6c, // rep insb
		0xf4))
	copy(g.ram[dataAddr:], "abcdef")
	var out []byte
	exit := g.next(c, ExitIO)
	for exit.IO().Out { // one exit per item or one for all: KVM's choice
		io := exit.IO()
		if io.Size != 2 || len(io.Data) != 2*io.Count {
			t.Fatalf("got %+v", io)
		}
		out = append(out, io.Data...)
		exit = g.next(c, ExitIO)
	}
	if string(out) != "abcdef" {
		t.Errorf("OUTS wrote %q, want abcdef", out)
	}
	in := []byte("wxyz")
	for len(in) > 0 {
		in = in[copy(exit.IO().Data, in):]
		if len(in) > 0 {
			exit = g.next(c, ExitIO)
		}
	}
	g.next(c, ExitHLT)
	if got := string(g.ram[dataAddr+0x100 : dataAddr+0x104]); got != "wxyz" {
		t.Errorf("INS read %q, want wxyz", got)
	}
}

func TestMMIO(t *testing.T) {
	// mov rax, [rbx] and mov [rbx], rax of each width
	loads := map[int][]byte{1: {0x8a, 0x03}, 2: {0x66, 0x8b, 0x03}, 4: {0x8b, 0x03}, 8: {0x48, 0x8b, 0x03}}
	stores := map[int][]byte{1: {0x88, 0x03}, 2: {0x66, 0x89, 0x03}, 4: {0x89, 0x03}, 8: {0x48, 0x89, 0x03}}
	for size := 1; size <= 8; size *= 2 {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			g := newGuest(t, false)
			c := g.vcpu(0)
			g.longMode(c,
				code(0xbb, uint32(mmioAddr+8), // mov ebx, mmioAddr+8
					0x31, 0xc0), // xor eax, eax
				loads[size],
				code(0x48, 0xff, 0xc0), // inc rax
				stores[size], hlt)
			m := g.next(c, ExitMMIO).MMIO()
			if m.Write || m.Addr != mmioAddr+8 || len(m.Data) != size {
				t.Fatalf("got %+v, want a read of %d bytes", m, size)
			}
			for i := range m.Data {
				m.Data[i] = byte(0x10 + i)
			}
			want := append([]byte(nil), m.Data...)
			want[0]++
			m = g.next(c, ExitMMIO).MMIO()
			if !m.Write || m.Addr != mmioAddr+8 || !bytes.Equal(m.Data, want) {
				t.Fatalf("got %+v, want a write of % x", m, want)
			}
			g.next(c, ExitHLT)
		})
	}
}

func TestMMIOAcrossPages(t *testing.T) {
	g := newGuest(t, false)
	c := g.vcpu(0)
	g.longMode(c, code(
		0xbb, uint32(mmioAddr+0xffd), // mov ebx, mmioAddr+0xffd
		0x48, 0xb8, uint32(0x04030201), uint32(0x08070605), // mov rax, 0x0807060504030201
		0x48, 0x89, 0x03, // mov [rbx], rax
		0xf4))
	var got []byte
	for len(got) < 8 {
		m := g.next(c, ExitMMIO).MMIO()
		if m.Addr != mmioAddr+0xffd+uint64(len(got)) {
			t.Fatalf("after %d bytes: got %+v", len(got), m)
		}
		got = append(got, m.Data...)
	}
	if !bytes.Equal(got, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("got % x", got)
	}
	g.next(c, ExitHLT)
}
