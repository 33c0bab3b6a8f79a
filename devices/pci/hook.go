package pci

// Hook lets a device take part in accesses to a range of its config space. Offsets are
// relative to the range and accesses are clipped to it; a hook of the whole space sees
// every access at its own width. Functions may be nil. They run with the function's lock
// held.
type Hook struct {
	Off, Size int // bytes of config space

	// Read may replace what the guest reads; p holds the emulated bytes.
	Read func(off int, p []byte)
	// ReadAfterWrite says that Read has nothing to say before the guest first writes to
	// the range. Until then the guest may read config space from memory.
	ReadAfterWrite bool
	// EndsDecode reports that the write makes the device stop answering (a function
	// level reset, a power state). All parts of its BARs are then taken from the guest
	// before Write is called, and given back afterwards as Powered allows. Writes that
	// clear decode bits in COMMAND need no such care: the parts are gone by then.
	EndsDecode func(off int, p []byte) bool
	// Write is called after the emulated bytes changed and what ends decoding was taken
	// away, before what begins decoding is mapped.
	Write func(off int, p []byte)
	// Powered reports whether the device answers at all; BARs are decoded only then.
	Powered func() bool

	written bool // to the range, by the guest
}

// clip returns the part of an access that is in the hook's range, relative to it.
func (h *Hook) clip(off int, p []byte) (int, []byte) {
	from, to := max(off, h.Off), min(off+len(p), h.Off+h.Size)
	if from >= to {
		return 0, nil
	}
	return from - h.Off, p[from-off : to-off]
}
