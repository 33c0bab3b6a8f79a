package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// A record is one line of words, the last of which is the hash of the others: what damages a record is noticed.
// Seals of entries and remembered hashes are records.

// maxRecord bounds a record, in bytes.
const maxRecord = 1024

var errNoRecord = errors.New("not a record that this stile has written")

func formatRecord(words ...string) string {
	text := strings.Join(words, " ")
	return text + " " + hashText(text) + "\n"
}

// parseRecord returns a record's words without the hash.
func parseRecord(text string) ([]string, error) {
	line, rest, ok := strings.Cut(text, "\n")
	if !ok || rest != "" || len(text) > maxRecord {
		return nil, errNoRecord
	}
	at := strings.LastIndexByte(line, ' ')
	if at < 0 || line[at+1:] != hashText(line[:at]) {
		return nil, errNoRecord
	}
	return strings.Split(line[:at], " "), nil
}

func hashText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// readRecord takes nothing but a regular file for a record.
func readRecord(path string) ([]string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return nil, errNoRecord
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	return parseRecord(string(text))
}

// writeRecord replaces what has the path, whatever it is.
func writeRecord(path string, words ...string) error {
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := io.WriteString(f, formatRecord(words...)); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// missing reports whether an error says that there is nothing at all.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
