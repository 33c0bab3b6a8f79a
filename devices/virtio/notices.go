package virtio

import (
	"fmt"
	"sync"
	"time"
)

// noticeInterval is how often a user is told of errors, at most.
const noticeInterval = 10 * time.Second

// notices tells the user of errors, of which a guest can cause any number.
type notices struct {
	tell func(text string) // nil ignores them

	mu      sync.Mutex
	next    time.Time // not before
	skipped int
}

// say tells what text returns, unless something was told shortly before.
func (n *notices) say(text func() string) {
	if n.tell == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if now.Before(n.next) {
		n.skipped++
		return
	}
	message := text()
	if n.skipped > 0 {
		message = fmt.Sprintf("%s (%d more since the last message)", message, n.skipped)
	}
	n.next, n.skipped = now.Add(noticeInterval), 0
	n.tell(message)
}
