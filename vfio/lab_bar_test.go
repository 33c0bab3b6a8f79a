package vfio

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLabLargeBAR touches each page of a large BAR. Where the kernel maps BARs in large pages (Linux 6.12) the mapping lies
// so that it can: a fault then brings 2 MiB.
func TestLabLargeBAR(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_LARGE")
	const page, large = 4096, 2 << 20
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		d := attach(t, labSpace(t, b), nodes[0])
		if _, err := d.Config().WriteAt([]byte{2, 0}, 4); err != nil { // memory decoding
			t.Fatal(err)
		}
		bar := d.BAR(0)
		for _, r := range d.Regions() {
			if len(r.Areas()) == 1 && r.Size() > bar.Size() {
				bar = r
			}
		}
		m, err := bar.Mmap(bar.Areas()[0])
		check(t, err)
		if m.Addr()%min(uintptr(bar.Size()), 1<<30) != 0 {
			t.Errorf("a BAR of %#x bytes is mapped at %#x", bar.Size(), m.Addr())
		}
		var before, after unix.Rusage
		check(t, unix.Getrusage(unix.RUSAGE_SELF, &before))
		begin := time.Now()
		sum := byte(0)
		for i := 0; i < len(m.Bytes()); i += page {
			sum += m.Bytes()[i]
		}
		took := time.Since(begin)
		check(t, unix.Getrusage(unix.RUSAGE_SELF, &after))
		faults := after.Minflt - before.Minflt
		t.Logf("%d MiB of BAR: %d faults for %d pages, %v (%d)", bar.Size()>>20, faults, len(m.Bytes())/page, took, sum)
		if faults > int64(len(m.Bytes())/page)+100 {
			t.Errorf("%d faults", faults)
		}
	})
}
