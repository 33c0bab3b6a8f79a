package control

import (
	"crypto/rand"
	"fmt"
	"strings"
)

const (
	// maxID bounds an ID, in bytes. The path of a socket has room for 107.
	maxID = 40
	// idSize is the length of an ID that NewID makes: 31^6 of them, typed in no time.
	idSize  = 6
	idFirst = "abcdefghjkmnpqrstuvwxyz"
	idOther = idFirst + "23456789"
)

// NewID makes up an ID. It begins with a letter, and has none that is easily mistaken.
func NewID() string {
	b := make([]byte, idSize)
	_, _ = rand.Read(b) // it never fails
	for i, v := range b {
		letters := idOther
		if i == 0 {
			letters = idFirst
		}
		b[i] = letters[int(v)%len(letters)]
	}
	return string(b)
}

// CheckID reports an ID that can't be one: it becomes a file's name.
func CheckID(id string) error {
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, func(r rune) bool { return !idRune(r) }) || !letterOrDigit(rune(id[0])) {
		return fmt.Errorf("%q is no name of a VM: it has 1 to %d letters, digits, - and _, and begins with a letter or a digit", id, maxID)
	}
	return nil
}

func idRune(r rune) bool { return letterOrDigit(r) || r == '-' || r == '_' }

func letterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
