package boot

import (
	"fmt"
	"strings"

	"github.com/stile-vmm/stile/internal/guestmem"
	"github.com/stile-vmm/stile/internal/layout"
)

// CheckCmdline checks a kernel command line: no byte that would end it early, and no
// longer than the kernel takes.
func (k *Kernel) CheckCmdline(s string) error {
	if i := strings.IndexAny(s, "\x00\n\r"); i >= 0 {
		return fmt.Errorf("kernel command line has the byte %#02x at position %d: take it out, it would end there", s[i], i)
	}
	if limit := k.cmdlineMax(); len(s) > limit {
		return fmt.Errorf("kernel command line has %d bytes, kernel %s takes %d: shorten it", len(s), k.name, limit)
	}
	return nil
}

// cmdlineMax returns the bytes that a command line may have, without NUL.
func (k *Kernel) cmdlineMax() int {
	limit := uint32(defaultCmdline) // x86's COMMAND_LINE_SIZE, for 20 years
	if k.bz != nil && k.bz.cmdlineSize != 0 {
		limit = k.bz.cmdlineSize
	}
	return int(min(limit, layout.CmdlineMax-1))
}

func writeCmdline(mem *guestmem.Memory, s string) error {
	b, err := mem.Slice(layout.Cmdline, uint64(len(s))+1)
	if err != nil {
		return fmt.Errorf("command line at %#x: %w", layout.Cmdline, err)
	}
	b[copy(b, s)] = 0
	return nil
}
