package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/stile-vmm/stile/internal/agentproto"
)

// ErrAgentLost says that the channel to the agent ended: the guest died, or its agent did.
var ErrAgentLost = errors.New("the guest's agent is lost")

// Session is a conversation with one guest's agent. Its methods may be called concurrently.
type Session struct {
	mux    *yamux.Session
	hello  *agentproto.Hello
	lastID atomic.Uint64

	dropped *dropped
}

// Dial waits for the agent behind conn to say hello. It takes ownership of conn, and
// closes it when it fails. conn's Close must make a Read and a Write in progress return.
func Dial(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	gone := &dropped{}
	mux, err := yamux.Client(&guard{ReadWriteCloser: conn, dropped: gone}, agentproto.MuxConfig())
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the agent's channel: %w", err)
	}
	s := &Session{mux: mux, dropped: gone}
	stop := context.AfterFunc(ctx, func() { mux.Close() })
	defer stop()
	if s.hello, err = s.readHello(ctx); err != nil {
		mux.Close()
		return nil, fmt.Errorf("wait for the guest's agent: %w", err)
	}
	return s, nil
}

func (s *Session) readHello(ctx context.Context) (*agentproto.Hello, error) {
	stream, err := s.mux.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, s.cause(ctx, err)
	}
	defer s.drop(stream)
	hello, err := agentproto.ReadHello(stream)
	if err != nil {
		return nil, s.cause(ctx, err)
	}
	return hello, nil
}

// Hello returns what the agent said first.
func (s *Session) Hello() *agentproto.Hello { return s.hello }

// Done returns a channel that is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session and closes the connection. The agent powers its machine off.
func (s *Session) Close() error { return s.mux.Close() }

// Setup makes the machine ready for commands. It is called at most once.
func (s *Session) Setup(ctx context.Context, setup *agentproto.Setup) error {
	if setup.UnixNano == 0 {
		now := *setup
		now.UnixNano = time.Now().UnixNano()
		setup = &now
	}
	if err := s.call(ctx, &agentproto.Request{Setup: setup}); err != nil {
		return fmt.Errorf("set the guest up: %w", err)
	}
	return nil
}

// PowerOff asks the machine to power off. It returns once the agent has agreed, or when
// the machine was gone before it could say so.
func (s *Session) PowerOff(ctx context.Context) error { return s.power(ctx, false) }

// Reboot asks the machine to reset. See PowerOff.
func (s *Session) Reboot(ctx context.Context) error { return s.power(ctx, true) }

func (s *Session) power(ctx context.Context, reboot bool) error {
	err := s.call(ctx, &agentproto.Request{Power: &agentproto.Power{Reboot: reboot}})
	if err != nil && !errors.Is(err, ErrAgentLost) {
		return fmt.Errorf("power the guest off: %w", err)
	}
	return nil
}

// call sends a request whose answer is an empty Reply.
func (s *Session) call(ctx context.Context, req *agentproto.Request) error {
	_, err := await(ctx, func() (struct{}, error) {
		stream, err := s.open(req)
		if err != nil {
			return struct{}{}, err
		}
		defer s.drop(stream)
		stop := context.AfterFunc(ctx, func() { stream.SetDeadline(past()) })
		defer stop()
		_, err = agentproto.ReadReply(stream)
		return struct{}{}, s.cause(ctx, err)
	}, nil)
	return err
}

// open opens a stream and sends its first message.
func (s *Session) open(req *agentproto.Request) (*yamux.Stream, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, s.cause(context.Background(), err)
	}
	if err := agentproto.WriteMessage(stream, agentproto.MaxRequest, req); err != nil {
		s.drop(stream)
		return nil, s.cause(context.Background(), err)
	}
	return stream, nil
}

// cause finds the reason behind a failed read or write: the context's end,
// the session's end, or err itself.
func (s *Session) cause(ctx context.Context, err error) error {
	var refused *agentproto.Error
	switch {
	case err == nil, errors.As(err, &refused):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.mux.IsClosed():
		return s.lost()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the guest's agent broke off: %w", err)
	}
	return err
}

// lost returns ErrAgentLost with what ended the session. The session must be closed.
func (s *Session) lost() error {
	for {
		stream, err := s.mux.AcceptStream()
		if err == nil {
			stream.Close() // was still queued
			continue
		}
		if closed(err) {
			return ErrAgentLost
		}
		return fmt.Errorf("%w: %w", ErrAgentLost, err)
	}
}

// closed reports whether err says of a session's end no more than that the channel was closed: here, or there, which
// who reads finds out first or who writes.
func closed(err error) bool {
	return errors.Is(err, yamux.ErrSessionShutdown) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE)
}

// await runs f and waits for it no longer than ctx allows. When ctx ends first, f goes
// on until its stream or session ends, and discard, if any, gets what it returned in the end.
func await[T any](ctx context.Context, f func() (T, error), discard func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	go func() {
		value, err := f()
		results <- result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		if discard != nil {
			go func() {
				if r := <-results; r.err == nil {
					discard(r.value)
				}
			}()
		}
		var zero T
		return zero, context.Cause(ctx)
	}
}

// past returns a deadline that is over.
func past() time.Time { return time.Unix(1, 0) }
