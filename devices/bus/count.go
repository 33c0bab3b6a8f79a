package bus

// Accesses calls fn with the name of every region that is or was on the bus, and the
// number of accesses to it. Regions of one name come more than once.
func (b *Bus) Accesses(fn func(name string, n uint64)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.snapshot() {
		fn(r.name, r.hits.Load())
	}
	for name, n := range b.gone {
		fn(name, n)
	}
	fn("nothing", b.unclaimed.Load())
}

// retire keeps the count of a region that leaves the bus. b.mu is held.
func (b *Bus) retire(r *Registration) {
	if b.gone == nil {
		b.gone = make(map[string]uint64)
	}
	b.gone[r.name] += r.hits.Load()
}
