package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/stile-vmm/stile/lab/internal/qmp"
)

// migration follows QEMU's MIGRATION events to the end.
type migration struct {
	once sync.Once
	end  chan string // receives "completed", "failed" or "cancelled"
}

func newMigration() *migration { return &migration{end: make(chan string, 1)} }

// observe is a qmp event handler.
func (m *migration) observe(e qmp.Event) {
	if e.Name != "MIGRATION" {
		return
	}
	var data struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(e.Data, &data) != nil {
		return
	}
	switch data.Status {
	case "completed", "failed", "cancelled":
		m.once.Do(func() { m.end <- data.Status })
	}
}

// prepare negotiates, and sets the migration's capabilities: memory stays where it is, in ram.img.
func (m *migration) prepare(ctx context.Context, p *process) error {
	if _, err := p.qmp.Negotiate(ctx); err != nil {
		return err
	}
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return p.qmp.Execute(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}},
	}, nil)
}

// wait waits for the end.
func (m *migration) wait(ctx context.Context, p *process) error {
	select {
	case status := <-m.end:
		if status != "completed" {
			return fmt.Errorf("QEMU's migration %s", status)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open makes a channel to carry the state, whose far end QEMU takes for "fd:state".
func (m *migration) open(ctx context.Context, p *process) (net.Conn, error) {
	ours, theirs, err := socketPair("migration")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := p.qmp.SendFile(ctx, streamName, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

const streamName = "state"

func streamArgs() map[string]string { return map[string]string{"uri": "fd:" + streamName} }

// save stops the machine and returns its state without memory.
func (m *migration) save(ctx context.Context, p *process) ([]byte, error) {
	conn, err := m.open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var stream bytes.Buffer
	read := make(chan error, 1)
	go func() {
		n, err := io.Copy(&stream, io.LimitReader(conn, maxStream+1))
		if err == nil && n > maxStream {
			err = fmt.Errorf("the state has more than %d bytes", maxStream)
		}
		read <- err
	}()
	if err := p.qmp.Execute(ctx, "migrate", streamArgs(), nil); err != nil {
		return nil, err
	}
	if err := m.wait(ctx, p); err != nil {
		return nil, err
	}
	select { // QEMU closes its end
	case err := <-read:
		return stream.Bytes(), err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// load gives the machine its state back. QEMU then lets it run.
func (m *migration) load(ctx context.Context, p *process, stream []byte) error {
	conn, err := m.open(ctx, p)
	if err != nil {
		return err
	}
	defer conn.Close()
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(stream)
		conn.Close()
		written <- err
	}()
	if err := p.qmp.Execute(ctx, "migrate-incoming", streamArgs(), nil); err != nil {
		return err
	}
	if err := m.wait(ctx, p); err != nil {
		return err
	}
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
