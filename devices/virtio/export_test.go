package virtio

// Look takes what is there, once, as Read does with the stream's lock held.
func (p *Port) Look(b []byte) (n int, more bool, err error) {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.take(b)
}
