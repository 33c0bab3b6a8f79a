package vfio

import (
	"slices"
	"testing"
	"time"

	"github.com/stile-vmm/stile/internal/uapi/iommufd"
	"github.com/stile-vmm/stile/internal/uapi/vfio"
)

// TestLabMapSpeed maps memory with Space and with bare ioctls in turn. The times are for the log; what is asserted is
// that Space issues one ioctl for each map and each unmap, as the bare loop does.
func TestLabMapSpeed(t *testing.T) {
	nodes := labNodes(t, "STILE_VFIO_EDU")
	const rounds, size = 21, 64 << 20
	forEachBackend(t, nodes, func(t *testing.T, b Backend) {
		s := labSpace(t, b)
		attach(t, s, nodes[0])
		mem := memory(t, size)
		check(t, Prefault(t.Context(), mem, 1, nil))
		bare := map[Backend]func() error{Legacy: func() error { return bareType1(s.backend.(*container), mem) },
			IOMMUFD: func() error { return bareIOAS(s.backend.(*ioas), mem) }}[b]
		check(t, bare()) // the first map makes page tables
		before := s.Stats()
		var ours, theirs []time.Duration
		for range rounds {
			begin := time.Now()
			check(t, s.Map(labIOVA, mem, Read|Write))
			check(t, s.Unmap(labIOVA, size))
			ours = append(ours, time.Since(begin))
			begin = time.Now()
			check(t, bare())
			theirs = append(theirs, time.Since(begin))
		}
		after := s.Stats()
		slices.Sort(ours)
		slices.Sort(theirs)
		t.Logf("map and unmap %d MiB, median of %d: %v, bare ioctls %v", size>>20, rounds, ours[rounds/2], theirs[rounds/2])
		for _, c := range map[Backend][]call{Legacy: {callMapDMA, callUnmapDMA}, IOMMUFD: {callIOASMap, callIOASUnmap}}[b] {
			if n := after.IOCTLs[c.name] - before.IOCTLs[c.name]; n != rounds {
				t.Errorf("%d %s for %d maps", n, c.name, rounds)
			}
		}
	})
}

// uncounted returns the file below the one that counts.
func uncounted(f file) file { return f.(counted).file }

func bareType1(c *container, mem []byte) error {
	m := vfio.DMAMap{Flags: vfio.MapRead | vfio.MapWrite, VAddr: mapping{mem: mem}.addr(), IOVA: labIOVA, Size: uint64(len(mem))}
	m.ArgSize = uint32(len(bytesOf(&m)))
	if _, err := uncounted(c.file).controlBytes(callMapDMA, bytesOf(&m)); err != nil {
		return err
	}
	u := vfio.DMAUnmap{IOVA: labIOVA, Size: uint64(len(mem))}
	u.ArgSize = uint32(len(bytesOf(&u)))
	_, err := uncounted(c.file).controlBytes(callUnmapDMA, bytesOf(&u))
	return err
}

func bareIOAS(s *ioas, mem []byte) error {
	m := iommufd.IOASMapArg{
		Flags: iommufd.MapFixedIOVA | iommufd.MapReadable | iommufd.MapWriteable, IOASID: s.id,
		UserVA: mapping{mem: mem}.addr(), Length: uint64(len(mem)), IOVA: labIOVA,
	}
	m.Size = uint32(len(bytesOf(&m)))
	if _, err := uncounted(s.file).controlBytes(callIOASMap, bytesOf(&m)); err != nil {
		return err
	}
	u := iommufd.IOASUnmapArg{IOASID: s.id, IOVA: labIOVA, Length: uint64(len(mem))}
	u.Size = uint32(len(bytesOf(&u)))
	_, err := uncounted(s.file).controlBytes(callIOASUnmap, bytesOf(&u))
	return err
}
