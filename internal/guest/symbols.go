package guest

import (
	"bufio"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/stile-vmm/stile/images/distro"
)

const (
	maxSymbols = 64 << 20 // bytes of a System.map that are read
	maxInside  = 1 << 20  // bytes of the longest function
	systemMap  = "System.map"
)

// symbolsOf returns the path of the file with a kernel's symbols: its System.map, or itself where it is a vmlinux; "" if there is none.
func symbolsOf(k *distro.Kernel) string {
	dir := filepath.Dir(k.Image)
	paths := []string{filepath.Join(dir, systemMap)}
	if tree, ok := strings.CutSuffix(k.Image, "/arch/x86/boot/bzImage"); ok {
		paths = append(paths, filepath.Join(tree, systemMap))
	}
	if k.Release != "" {
		paths = append(paths, filepath.Join(dir, systemMap+"-"+k.Release))
	}
	if k.Modules != "" {
		paths = append(paths, filepath.Join(k.Modules, systemMap), filepath.Join(k.Modules, "build", systemMap))
	}
	for _, path := range paths {
		// Debian's has a line that says where the real one is.
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() > 4096 {
			return path
		}
	}
	if f, err := elf.Open(k.Image); err == nil {
		f.Close()
		return k.Image
	}
	return ""
}

// instruction is where a vCPU's registers have its instruction pointer.
var instruction = regexp.MustCompile(`rip [0-9a-f]{4}:([0-9a-f]{16})`)

// withSymbols adds to the instruction pointers in text the functions that they are in, by the symbols in a file; "" has none. The
// kernel was put where it was linked to run: stile has no randomization.
func withSymbols(path, text string) string {
	if path == "" {
		return text
	}
	return instruction.ReplaceAllStringFunc(text, func(rip string) string {
		address, err := strconv.ParseUint(rip[len(rip)-16:], 16, 64)
		if err != nil {
			return rip
		}
		if name := symbolIn(path, address); name != "" {
			return rip + " (" + name + ")"
		}
		return rip
	})
}

// symbolIn returns the function at an address as name+offset, "" if it is not in the file.
func symbolIn(path string, address uint64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var best symbol
	if e, err := elf.NewFile(f); err == nil {
		symbols, _ := e.Symbols() // none in a stripped one
		for _, s := range symbols {
			if elf.ST_TYPE(s.Info) == elf.STT_FUNC {
				best.consider(s.Name, s.Value, address)
			}
		}
	} else if _, err := f.Seek(0, io.SeekStart); err == nil {
		best = scanSymbols(io.LimitReader(f, maxSymbols), address)
	}
	return best.at(address)
}

// symbol is the beginning of a function.
type symbol struct {
	name  string
	begin uint64
}

// consider makes a function that begins at begin s if it is nearer to an address in it.
func (s *symbol) consider(name string, begin, address uint64) {
	if begin <= address && address-begin < maxInside && (s.name == "" || begin > s.begin) {
		*s = symbol{name, begin}
	}
}

func (s *symbol) at(address uint64) string {
	if s.name == "" {
		return ""
	}
	return fmt.Sprintf("%.200s+%#x", s.name, address-s.begin)
}

// scanSymbols reads a System.map: lines of an address, a letter and a name.
func scanSymbols(r io.Reader, address uint64) (best symbol) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || !strings.Contains("tTwW", fields[1]) {
			continue
		}
		if begin, err := strconv.ParseUint(fields[0], 16, 64); err == nil {
			best.consider(fields[2], begin, address)
		}
	}
	return best
}
