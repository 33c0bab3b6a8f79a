package agentproto

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
)

// Stage 0: before its first session, an agent in a lab's nested host writes
//
//	STILE-LAB 2 <hex sha256 of its binary>\n
//
// and reads one line. There the machine is saved. Whoever resumes it sends
//
//	RUN <hex sha256> <size> <hex checksum> <hex seed>\n
//
// and size bytes, a static binary with that hash; size 0 means that the agent's own
// binary is the right one. The agent goes on with that binary and starts a session.
// What it checks is the checksum, FNV-1a of 64 bits: an emulated machine would take seconds for the hash, which
// only names the binary. The seed is fresh random bytes: before anything else runs, the machine's kernel is reseeded
// with them, because all that are resumed from one memory would draw the same random numbers.
const (
	labMagic    = "STILE-LAB"
	labVersion  = 2
	runMagic    = "RUN"
	maxLabLine  = 320
	hashHexSize = 64

	// MaxRunSize bounds the binary that stage 0 takes, in bytes.
	MaxRunSize = 256 << 20
)

// Seed is what the random numbers of a resumed machine start from.
type Seed [32]byte

// LabLine returns stage 0's line for an agent with the given hash (hex sha256).
func LabLine(hash string) string { return fmt.Sprintf("%s %d %s\n", labMagic, labVersion, hash) }

// ReadLabLine reads stage 0's line and returns the agent's hash. It reads not a byte more.
func ReadLabLine(r io.Reader) (hash string, err error) {
	line, err := readLine(r)
	if err != nil {
		return "", err
	}
	fields := strings.Split(line, " ")
	if len(fields) != 3 || fields[0] != labMagic {
		return "", fmt.Errorf("%q is not what a saved machine says", line)
	}
	if fields[1] != strconv.Itoa(labVersion) {
		return "", fmt.Errorf("the saved machine speaks version %q of stage 0, this program version %d: save it again", fields[1], labVersion)
	}
	return fields[2], checkHash(fields[2])
}

// RunLine is the answer to stage 0's line.
type RunLine struct {
	// Hash is the hex sha256 of the binary to run.
	Hash string
	// Size is the number of bytes that follow; 0 for the agent's own binary.
	Size int64
	// Checksum is FNV-1a of the bytes that follow.
	Checksum uint64
	// Seed is another one in each line.
	Seed Seed
}

// NewChecksum returns the hash function of RunLine's Checksum.
func NewChecksum() hash.Hash64 { return fnv.New64a() }

// String returns the line with its newline.
func (l RunLine) String() string {
	return fmt.Sprintf("%s %s %d %016x %x\n", runMagic, l.Hash, l.Size, l.Checksum, l.Seed)
}

// ReadRunLine reads a RunLine and not a byte more. It returns io.EOF when r ends before the line starts.
func ReadRunLine(r io.Reader) (RunLine, error) {
	line, err := readLine(r)
	if err != nil {
		return RunLine{}, err
	}
	fields := strings.Split(line, " ")
	if len(fields) != 5 || fields[0] != runMagic {
		return RunLine{}, fmt.Errorf("%q is not RUN, a hash, a size, a checksum and a seed", line)
	}
	if err := checkHash(fields[1]); err != nil {
		return RunLine{}, err
	}
	size, err := strconv.ParseUint(fields[2], 10, 63)
	if err != nil || size > MaxRunSize {
		return RunLine{}, fmt.Errorf("size %q of the binary to run is not a number up to %d", fields[2], MaxRunSize)
	}
	checksum, err := strconv.ParseUint(fields[3], 16, 64)
	if err != nil {
		return RunLine{}, fmt.Errorf("checksum %q is not 64 bits in hex", fields[3])
	}
	l := RunLine{Hash: fields[1], Size: int64(size), Checksum: checksum}
	if seed, err := hex.DecodeString(fields[4]); err != nil || copy(l.Seed[:], seed) != len(seed) || len(seed) != len(l.Seed) {
		return RunLine{}, fmt.Errorf("seed %q is not %d bytes in hex", fields[4], len(l.Seed))
	}
	return l, nil
}

func checkHash(s string) error {
	if len(s) != hashHexSize || strings.ToLower(s) != s {
		return fmt.Errorf("%q is not a sha256 in lower-case hex", s)
	}
	if _, err := hex.DecodeString(s); err != nil {
		return fmt.Errorf("%q is not a sha256 in hex", s)
	}
	return nil
}

// readLine reads up to a newline, byte by byte: what follows belongs to another reader.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxLabLine {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			if err == io.EOF && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("line too long")
}
