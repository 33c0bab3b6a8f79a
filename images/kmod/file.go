package kmod

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// Suffix is that of an uncompressed module's file.
const Suffix = ".ko"

// maxModule bounds an uncompressed module, in bytes.
const maxModule = 256 << 20

// Name makes a module's name of its file's: the kernel takes - and _ for the same.
func Name(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), Suffix)
	return strings.ReplaceAll(name, "-", "_")
}

// IsModule reports whether a file's name is a module's: .ko, .ko.xz, .ko.zst or .ko.gz.
func IsModule(path string) bool {
	switch filepath.Ext(path) {
	case ".xz", ".zst", ".gz":
		path = strings.TrimSuffix(path, filepath.Ext(path))
	}
	return filepath.Ext(path) == Suffix
}

// Compressed reports whether a module's file is compressed, by its name.
func Compressed(path string) bool { return !strings.HasSuffix(path, Suffix) }

// Read reads a module's file and uncompresses it.
func Read(path string) ([]byte, error) { return new(reader).read(path) }

// reader reads one module after the other, and keeps what it needs for that.
type reader struct {
	content bytes.Buffer
	xz      *xz.Reader
	zstd    *zstd.Decoder
}

// read is Read. What it returns is good until the next call.
func (r *reader) read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, err := r.uncompress(filepath.Ext(path), f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.content.Reset()
	if _, err := io.Copy(&r.content, io.LimitReader(plain, maxModule+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.content.Len() > maxModule {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxModule)
	}
	return r.content.Bytes(), nil
}

// uncompress chooses by a file name's extension.
func (r *reader) uncompress(ext string, file io.Reader) (io.Reader, error) {
	var err error
	switch ext {
	case ".xz":
		if r.xz == nil {
			r.xz, err = xz.NewReader(file, xz.DefaultDictMax)
		} else {
			err = r.xz.Reset(file)
		}
		return r.xz, err
	case ".gz":
		return gzip.NewReader(file)
	case ".zst":
		if r.zstd == nil {
			r.zstd, err = zstd.NewReader(file, zstd.WithDecoderConcurrency(1))
		} else {
			err = r.zstd.Reset(file)
		}
		return r.zstd, err
	}
	return file, nil
}
