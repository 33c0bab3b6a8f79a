package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// ErrClosed is returned for a command whose connection ended before its reply came.
var ErrClosed = errors.New("qmp: connection closed")

// Client talks to one QEMU. Its methods may be called concurrently.
type Client struct {
	conn    io.ReadWriteCloser
	onEvent func(Event)

	greeting chan Greeting // receives once
	done     chan struct{} // closed when the reader ends

	writing sync.Mutex // one command at a time on conn

	mu      sync.Mutex
	err     error // why the reader ended; set before done is closed
	nextID  uint64
	pending map[uint64]chan message // each has room for its reply
}

// New starts a client on conn, which it owns from now on. onEvent, if not nil, is
// called for each event, in order, on the reader's goroutine: it must not block.
func New(conn io.ReadWriteCloser, onEvent func(Event)) *Client {
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	c := &Client{
		conn:     conn,
		onEvent:  onEvent,
		greeting: make(chan Greeting, 1),
		done:     make(chan struct{}),
		pending:  make(map[uint64]chan message),
	}
	go c.read()
	return c
}

// Negotiate waits for the greeting and leaves capability negotiation mode: the first
// thing to do with a client, once. QEMU answers when its machine has been made.
func (c *Client) Negotiate(ctx context.Context) (Greeting, error) {
	var g Greeting
	select {
	case g = <-c.greeting:
	case <-c.done:
		return g, c.closed("greeting")
	case <-ctx.Done():
		return g, context.Cause(ctx)
	}
	return g, c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Execute runs a command. args becomes its arguments (nil: none), result receives what
// it returns (nil: ignored). A refusal is an *Error.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	return c.execute(ctx, command, args, result, nil)
}

// SendFile gives QEMU a duplicate of f, under a name that later commands use ("getfd").
// The connection must be a *net.UnixConn.
func (c *Client) SendFile(ctx context.Context, name string, f *os.File) error {
	return c.execute(ctx, "getfd", map[string]string{"fdname": name}, nil, f)
}

func (c *Client) execute(ctx context.Context, command string, args, result any, file *os.File) error {
	reply := make(chan message, 1)
	id, err := c.send(command, args, file, reply)
	if err != nil {
		return err
	}
	defer c.forget(id)
	select {
	case m := <-reply:
		return finish(m, command, result)
	case <-c.done:
		select { // the reply may have come last
		case m := <-reply:
			return finish(m, command, result)
		default:
			return c.closed(command)
		}
	case <-ctx.Done():
		return fmt.Errorf("qmp: %s: %w", command, context.Cause(ctx))
	}
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and waits for the reader. Further calls do nothing.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

func finish(m message, command string, result any) error {
	if m.kind == kindError {
		m.failure.Command = command
		return &m.failure
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.result, result); err != nil {
		return fmt.Errorf("qmp: %s: result: %w", command, err)
	}
	return nil
}

// send registers reply for the command's answer and writes the command. The reader is
// never kept from its work by a write that waits.
func (c *Client) send(command string, args any, file *os.File, reply chan message) (uint64, error) {
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.pending[id] = reply
	c.mu.Unlock()

	if err := c.write(command, args, id, file); err != nil {
		c.forget(id)
		return 0, err
	}
	return id, nil
}

func (c *Client) write(command string, args any, id uint64, file *os.File) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return fmt.Errorf("qmp: %s: arguments: %w", command, err)
	}
	line = append(line, '\n')
	c.writing.Lock()
	defer c.writing.Unlock()
	if file != nil {
		err = c.writeFile(line, file)
	} else {
		_, err = c.conn.Write(line)
	}
	if err != nil {
		return fmt.Errorf("qmp: %s: %w: %w", command, ErrClosed, err)
	}
	return nil
}

// writeFile writes a line with a descriptor beside it. c.writing is held.
func (c *Client) writeFile(line []byte, file *os.File) error {
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("a %T carries no descriptors", c.conn)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var writeErr error
	err = raw.Control(func(fd uintptr) {
		// A short write would lose the rest: the line is far below a socket's buffer.
		_, _, writeErr = conn.WriteMsgUnix(line, syscall.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, writeErr)
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Client) closed(what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("qmp: %s: %w: %w", what, ErrClosed, c.err)
}

// read dispatches messages until the stream ends or makes no sense.
func (c *Client) read() {
	err := c.readAll()
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

func (c *Client) readAll() error {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		m, err := decode(lines.Bytes())
		if err != nil {
			return err
		}
		c.dispatch(m)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

func (c *Client) dispatch(m message) {
	switch m.kind {
	case kindGreeting:
		select {
		case c.greeting <- m.greeting:
		default: // a second one says nothing new
		}
	case kindEvent:
		c.onEvent(m.event)
	case kindReturn, kindError:
		c.mu.Lock()
		reply := c.pending[m.id]
		delete(c.pending, m.id)
		c.mu.Unlock()
		if reply != nil {
			reply <- m
		}
	}
}
