package qmp

import (
	"encoding/json"
	"fmt"
)

// maxMessage bounds one message, in bytes. The longest one QEMU sends on its own, the
// greeting, has a few hundred; replies to the commands used here have a few thousand.
const maxMessage = 1 << 20

// Error is QEMU's refusal of a command.
type Error struct {
	Command string // the command refused
	Class   string // QAPI error class, usually "GenericError"
	Desc    string // for people
}

func (e *Error) Error() string { return fmt.Sprintf("qemu: %s: %s", e.Command, e.Desc) }

// Event is an asynchronous message: its name ("MIGRATION") and its data, not decoded.
type Event struct {
	Name string
	Data json.RawMessage
}

// Greeting is the first message of a connection.
type Greeting struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
		Package string `json:"package"`
	} `json:"version"`
}

// kind tells what a message is.
type kind int

const (
	kindGreeting kind = iota + 1
	kindReturn
	kindError
	kindEvent
)

// message is one decoded message; the field that belongs to its kind is set.
type message struct {
	kind     kind
	id       uint64
	greeting Greeting
	result   json.RawMessage
	failure  Error // without Command
	event    Event
}

// decode parses one line. What is neither greeting, reply nor event is an error, and
// so is a message that claims to be several of them.
func decode(line []byte) (message, error) {
	var raw struct {
		QMP    *Greeting       `json:"QMP"`
		ID     uint64          `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
		Event *string         `json:"event"`
		Data  json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return message{}, fmt.Errorf("qmp: message of %d bytes: %w", len(line), err)
	}
	m := message{id: raw.ID}
	kinds := 0
	if raw.QMP != nil {
		m.kind, m.greeting, kinds = kindGreeting, *raw.QMP, kinds+1
	}
	if raw.Return != nil {
		m.kind, m.result, kinds = kindReturn, raw.Return, kinds+1
	}
	if raw.Error != nil {
		m.kind, m.failure, kinds = kindError, Error{Class: raw.Error.Class, Desc: raw.Error.Desc}, kinds+1
	}
	if raw.Event != nil {
		m.kind, m.event, kinds = kindEvent, Event{Name: *raw.Event, Data: raw.Data}, kinds+1
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("qmp: message is %d of greeting, return, error and event, want one", kinds)
	}
	return m, nil
}
