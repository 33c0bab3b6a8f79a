package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// fake answers each command by fn, which returns the lines to send ("%d" is the id).
func fake(t *testing.T, onEvent func(Event), fn func(command string, args json.RawMessage) []string) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	c := New(ours, onEvent)
	var served sync.WaitGroup
	served.Go(func() {
		defer theirs.Close()
		fmt.Fprint(theirs, greeting+"\r\n")
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var cmd struct {
				Execute   string
				Arguments json.RawMessage
				ID        uint64
			}
			if err := json.Unmarshal(lines.Bytes(), &cmd); err != nil {
				t.Errorf("command %q: %v", lines.Text(), err)
				return
			}
			answer := fn(cmd.Execute, cmd.Arguments)
			if answer == nil {
				return
			}
			for _, l := range answer {
				fmt.Fprint(theirs, strings.ReplaceAll(l, "%d", fmt.Sprint(cmd.ID))+"\r\n")
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		served.Wait()
	})
	return c
}

const ok = `{"return": {}, "id": %d}`

func TestNegotiateAndExecute(t *testing.T) {
	var commands []string
	c := fake(t, nil, func(command string, args json.RawMessage) []string {
		commands = append(commands, command+string(args))
		switch command {
		case "query-status":
			return []string{`{"return": {"status": "running"}, "id": %d}`}
		case "device_add":
			return []string{`{"id": %d, "error": {"class": "GenericError", "desc": "no such bus"}}`}
		}
		return []string{ok}
	})
	ctx := t.Context()
	g, err := c.Negotiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if q := g.Version.QEMU; q.Major != 7 || q.Minor != 2 || q.Micro != 22 {
		t.Errorf("version %+v", q)
	}
	var status struct{ Status string }
	if err := c.Execute(ctx, "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("query-status: %+v, %v", status, err)
	}
	err = c.Execute(ctx, "device_add", map[string]string{"driver": "nvme"}, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Command != "device_add" || refused.Desc != "no such bus" {
		t.Errorf("device_add: %v", err)
	}
	want := []string{"qmp_capabilities", "query-status", `device_add{"driver":"nvme"}`}
	if fmt.Sprint(commands) != fmt.Sprint(want) {
		t.Errorf("commands %q, want %q", commands, want)
	}
}

func TestEventsComeInOrderBetweenReplies(t *testing.T) {
	var events []string
	c := fake(t, func(e Event) { events = append(events, e.Name+string(e.Data)) }, func(string, json.RawMessage) []string {
		return []string{
			`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status":"active"}}`,
			`{"timestamp": {"seconds": 1, "microseconds": 3}, "event": "STOP"}`,
			`{"return": {}, "id": 12345}`, // not ours: ignored
			ok,
		}
	})
	if err := c.Execute(t.Context(), "migrate", nil, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{`MIGRATION{"status":"active"}`, "STOP"}; fmt.Sprint(events) != fmt.Sprint(want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

func TestConcurrentCommandsGetTheirOwnReplies(t *testing.T) {
	c := fake(t, nil, func(_ string, args json.RawMessage) []string {
		return []string{`{"return": ` + string(args) + `, "id": %d}`}
	})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			var got int
			if err := c.Execute(t.Context(), "echo", i, &got); err != nil || got != i {
				t.Errorf("echo %d: %d, %v", i, got, err)
			}
		})
	}
	all.Wait()
}

func TestConnectionEnds(t *testing.T) {
	c := fake(t, nil, func(command string, _ json.RawMessage) []string {
		if command == "quit" {
			return nil
		}
		return []string{ok}
	})
	if _, err := c.Negotiate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("quit: %v, want ErrClosed", err)
	}
	<-c.Done()
	if err := c.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v, want ErrClosed", err)
	}
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	c := fake(t, nil, func(string, json.RawMessage) []string { return []string{"Segmentation fault"} })
	if err := c.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

func TestContextEndsAWait(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() { // takes commands and never answers
		buf := make([]byte, 1024)
		for {
			if _, err := theirs.Read(buf); err != nil {
				return
			}
		}
	}()
	c := New(ours, nil)
	defer theirs.Close()
	defer c.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, why) {
		t.Errorf("Execute: %v, want %v", err, why)
	}
	if _, err := c.Negotiate(ctx); !errors.Is(err, why) {
		t.Errorf("Negotiate: %v, want %v", err, why)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, line := range []string{
		``, `null`, `{}`, `[]`, `{"id": 1}`, `{"return": {}, "event": "STOP"}`,
		`{"return": {}, "id": -1}`, `{"event": 7}`, `{"return": {}`,
	} {
		if m, err := decode([]byte(line)); err == nil {
			t.Errorf("decode(%q) = %+v, want an error", line, m)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(ok))
	f.Add([]byte(`{"id": 3, "error": {"class": "GenericError", "desc": "no such bus"}}`))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status":"active"}}`))
	f.Add([]byte(`{"event": "STOP", "data": null, "return": null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decode(line)
		if err != nil {
			return
		}
		switch m.kind {
		case kindGreeting, kindError:
		case kindReturn:
			if !json.Valid(m.result) {
				t.Errorf("result %q is no JSON", m.result)
			}
		case kindEvent:
			if m.event.Data != nil && !json.Valid(m.event.Data) {
				t.Errorf("event data %q is no JSON", m.event.Data)
			}
		default:
			t.Errorf("kind %d without an error", m.kind)
		}
	})
}
