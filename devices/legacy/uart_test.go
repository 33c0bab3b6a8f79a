package legacy

import "testing"

// TestUARTAwaitReader waits for the interrupt enable that Linux sets when the port is opened.
func TestUARTAwaitReader(t *testing.T) {
	u := NewUART(nil, noLine{})
	ready := make(chan bool)
	go func() { ready <- u.AwaitReader() }()
	u.Write(uartIER, []byte{ierAll}) // a probe
	u.Write(uartIER, []byte{0})
	u.Write(uartMCR, []byte{mcrOut2})
	select {
	case <-ready:
		t.Error("AwaitReader takes a probe for a reader")
	default:
	}
	u.Write(uartIER, []byte{ierReceive})
	if !<-ready {
		t.Error("AwaitReader says closed")
	}
	u.Write(uartIER, []byte{0})
	go func() { ready <- u.AwaitReader() }()
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if <-ready {
		t.Error("AwaitReader does not notice Close")
	}
}

type noLine struct{}

func (noLine) Set(bool) error { return nil }
