package virtq

// ReleaseAll is Release for several chains that the driver sees at once: a frame's buffers,
// of which it expects all when it has the first (virtio 1.3, 5.1.6.4). written[i] belongs to chains[i].
func (q *Queue) ReleaseAll(chains []Chain, written []uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range chains {
		off := ringStart + elemSize*int(q.usedIdx&(q.size-1))
		put32(q.used[off:], uint32(chains[i].head))
		put32(q.used[off+4:], written[i])
		q.usedIdx++
	}
	q.publish()
	q.inFlight.Add(-int32(len(chains)))
}
