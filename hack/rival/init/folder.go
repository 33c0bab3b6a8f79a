package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What is in a folder that is measured.
const (
	folders     = 500
	filesIn     = 100
	statFolders = 5 // of which each file's attributes are asked for
	bigFile     = "big"
	bigSize     = 1 << 30 // bytes, a hole
	readSize    = 1 << 20 // bytes
	folderTag   = "folder"
	folderPlace = "/folder"
)

// makeFolder fills dir.
func makeFolder(dir string) error {
	for i := range folders {
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for j := range filesIn {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d", j)), nil, 0o644); err != nil {
				return err
			}
		}
	}
	big := filepath.Join(dir, bigFile)
	return errors.Join(os.WriteFile(big, nil, 0o644), os.Truncate(big, bigSize))
}

// measureShared mounts the shared folder where there is one, with the options of the kernel's command line and the message size that
// stile's agent has, and measures it.
func measureShared() error {
	options, ok := os.LookupEnv("folder_options")
	if !ok {
		return nil
	}
	if err := os.MkdirAll(folderPlace, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(folderTag, folderPlace, "9p", 0, "trans=virtio,version=9p2000.L,msize=512000,access=client,"+options); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return measureFolder(folderPlace)
}

// measureFolder measures what find does over all files, what find does that asks for the attributes of each, over some of them, and
// reading from the start of a big file as many MiB as folder_mib in the environment says.
func measureFolder(dir string) error {
	mib, err := strconv.Atoi(os.Getenv("folder_mib"))
	if err != nil {
		return err
	}
	begin := time.Now()
	found, err := find(dir, func(fs.DirEntry) error { return nil })
	if err != nil || found != folders*filesIn+1 {
		return fmt.Errorf("%d files: %w", found, err)
	}
	took := time.Since(begin)
	begin = time.Now()
	for i := range statFolders {
		_, err := find(filepath.Join(dir, strconv.Itoa(i)), func(e fs.DirEntry) error { _, err := e.Info(); return err })
		if err != nil {
			return err
		}
	}
	attributes := time.Since(begin)
	begin = time.Now()
	if err := readStart(filepath.Join(dir, bigFile), min(mib<<20, bigSize)); err != nil {
		return err
	}
	fmt.Printf("folder: find_us=%d attributes_us=%d read_us=%d\n", took.Microseconds(), attributes.Microseconds(), time.Since(begin).Microseconds())
	return nil
}

func find(dir string, each func(fs.DirEntry) error) (files int, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if name := e.Name(); !strings.HasPrefix(name, "file") && name != bigFile {
			return fmt.Errorf("%s: not of this folder", path)
		}
		files++
		return each(e)
	})
	return files, err
}

// readStart reads the first size bytes.
func readStart(file string, size int) error {
	fd, err := unix.Open(file, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, readSize)
	for total := 0; total < size; {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s: ends after %d bytes", file, total)
		}
		total += n
	}
	return nil
}
