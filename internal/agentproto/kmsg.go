package agentproto

// Kmsg asks for the kernel's ring buffer. The agent answers with the first lines of its records, as a read of /dev/kmsg has them, and
// ends the stream behind the last one, or where the kernel has none.
type Kmsg struct {
	// From is the sequence number of the first record that is wanted.
	From uint64 `json:"from,omitempty"`
	// Follow goes on with records to come, until the host closes the stream.
	Follow bool `json:"follow,omitempty"`
}

func (k *Kmsg) validate() error { return nil }
