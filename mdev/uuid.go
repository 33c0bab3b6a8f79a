package mdev

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// NewUUID returns a random UUID (RFC 9562, version 4).
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// ParseUUID returns a UUID as the kernel writes it, in lower case.
func ParseUUID(s string) (string, error) {
	lower := strings.ToLower(s)
	if !uuidPattern.MatchString(lower) {
		return "", fmt.Errorf("%q is no UUID: it has 32 hexadecimal digits in five groups, such as %s", s, NewUUID())
	}
	return lower, nil
}

func isUUID(s string) bool { return uuidPattern.MatchString(s) }
