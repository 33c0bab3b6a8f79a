package distro

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// The format of an ar archive's members, as in deb(5) and ar(5).
const (
	arMagic       = "!<arch>\n"
	arHeaderSize  = 60
	arHeaderMagic = "`\n"
)

// arReader reads an ar archive in order. Read reads the present member.
type arReader struct {
	r   io.Reader
	n   int64 // bytes of the present member that were not read yet
	pad int64 // 1 when a byte follows it that makes its end even
}

func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("not an ar archive")
	}
	return &arReader{r: r}, nil
}

// next goes to the next member and returns its name, io.EOF after the last one.
func (a *arReader) next() (name string, err error) {
	if _, err := io.CopyN(io.Discard, a.r, a.n+a.pad); err != nil {
		return "", fmt.Errorf("ar archive is truncated: %w", io.ErrUnexpectedEOF)
	}
	a.n, a.pad = 0, 0
	var header [arHeaderSize]byte
	if _, err := io.ReadFull(a.r, header[:]); err == io.EOF {
		return "", io.EOF
	} else if err != nil {
		return "", fmt.Errorf("ar archive is truncated: %w", err)
	}
	if string(header[58:60]) != arHeaderMagic {
		return "", errors.New("ar archive: damaged member header")
	}
	size, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 62)
	if err != nil {
		return "", fmt.Errorf("ar archive: member size %q", header[48:58])
	}
	a.n, a.pad = int64(size), int64(size&1)
	return strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/"), nil
}

func (a *arReader) Read(p []byte) (int, error) {
	if a.n == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > a.n {
		p = p[:a.n]
	}
	n, err := a.r.Read(p)
	a.n -= int64(n)
	if err == io.EOF && a.n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

const (
	debVersion  = "2."
	debFirst    = "debian-binary"
	debFiles    = "data.tar"
	debPreamble = 16 // bytes of debian-binary that are looked at
)

// walkDeb calls visit for each of the files in a Debian package, in order.
func walkDeb(r io.Reader, visit func(*tar.Header, io.Reader) error) error {
	a, err := newArReader(r)
	if err != nil {
		return err
	}
	name, err := a.next()
	if err != nil || name != debFirst {
		return fmt.Errorf("not a Debian package: its first member is %q", name)
	}
	version, err := io.ReadAll(io.LimitReader(a, debPreamble))
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(version), debVersion) {
		return fmt.Errorf("package of the unknown format %q", version)
	}
	for {
		name, err := a.next()
		if err == io.EOF {
			return fmt.Errorf("package without %s", debFiles)
		}
		if err != nil {
			return err
		}
		if ext, ok := strings.CutPrefix(name, debFiles); ok {
			return walkTar(ext, a, visit)
		}
	}
}

// walkTar calls visit for each member of a tar archive that is compressed as ext says.
func walkTar(ext string, r io.Reader, visit func(*tar.Header, io.Reader) error) error {
	plain, err := uncompress(ext, r)
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return readEnd(plain)
		}
		if err != nil {
			return err
		}
		if err := visit(header, archive); err != nil {
			return err
		}
	}
}

// maxPadding bounds what follows a tar archive's end, in bytes. GNU tar fills up 10 KiB.
const maxPadding = 1 << 20

// readEnd reads what follows the archive, which is where the compressed file has its checksum.
func readEnd(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxPadding))
	if err == nil && n == maxPadding {
		err = errors.New("there is more behind the archive's end")
	}
	return err
}

// maxWindow bounds what a decompressor may keep of what it has written, in bytes.
const maxWindow = 128 << 20

func uncompress(ext string, r io.Reader) (io.ReadCloser, error) {
	switch ext {
	case "":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		x, err := xz.NewReader(r, maxWindow)
		return io.NopCloser(x), err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compression %q is unknown", ext)
}
