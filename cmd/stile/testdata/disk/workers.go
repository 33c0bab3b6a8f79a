package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	blockSize    = 32 << 10 // bytes
	workers      = 4
	regionBlocks = 32 // blocks of a worker
	// lastPass is what finish writes.
	lastPass = 1 << 20
)

// pattern fills p with what a block has after a pass: no word of it is elsewhere.
func pattern(p []byte, block int64, pass uint64) {
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], pass<<32|uint64(block)<<16|uint64(i))
	}
}

// aligned returns two buffers for O_DIRECT.
func aligned() (a, b []byte, err error) {
	p, err := unix.Mmap(-1, 0, 2*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for a block: %w", err)
	}
	return p[:blockSize], p[blockSize:], nil
}

// worker writes blocks of its own region, one after the other.
type worker struct {
	cpu   int
	first int64 // block
	// passes has each block's last write that was answered; 0: none, or one more that was under way at a reset.
	passes [regionBlocks]uint64
	pass   uint64
	buf    []byte
	want   []byte
	done   atomic.Int64 // blocks since the reset
}

type crew []*worker

func newWorkers() (crew, error) {
	var all crew
	for i := range workers {
		buf, want, err := aligned()
		if err != nil {
			return nil, err
		}
		all = append(all, &worker{cpu: i % 2, first: int64(i * regionBlocks), pass: 1, buf: buf, want: want})
	}
	return all, nil
}

// write lets all write until the disk is gone; stopped waits for that, and closes it.
func (c crew) write(disk *os.File) (stopped func()) {
	var group sync.WaitGroup
	for _, w := range c {
		w.done.Store(0)
		group.Go(func() { w.write(disk) })
	}
	return func() {
		group.Wait()
		_ = disk.Close() // of what is gone
	}
}

// busy reports whether all have written some.
func (c crew) busy() bool {
	for _, w := range c {
		if w.done.Load() < 16 {
			return false
		}
	}
	return true
}

func (w *worker) write(disk *os.File) {
	runtime.LockOSThread() // which ends with the goroutine, and its affinity with it
	var set unix.CPUSet
	set.Set(w.cpu)
	_ = unix.SchedSetaffinity(0, &set) // counted by bothInterrupts
	for ; ; w.pass++ {
		for i := range w.passes {
			block := w.first + int64(i)
			w.passes[i] = 0
			pattern(w.buf, block, w.pass)
			if _, err := disk.WriteAt(w.buf, block*blockSize); err != nil {
				w.pass++
				return
			}
			w.passes[i] = w.pass
			w.done.Add(1)
		}
	}
}

// verify compares what was answered with what is on the disk, all at once.
func (c crew) verify(disk *os.File) error {
	errs := make([]error, len(c))
	var group sync.WaitGroup
	for i, w := range c {
		group.Go(func() { errs[i] = w.verify(disk) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func (w *worker) verify(disk *os.File) error {
	for i, pass := range w.passes {
		if pass == 0 {
			continue
		}
		block := w.first + int64(i)
		if _, err := disk.ReadAt(w.buf, block*blockSize); err != nil {
			return err
		}
		if pattern(w.want, block, pass); !bytes.Equal(w.buf, w.want) {
			return fmt.Errorf("block %d is not what pass %d wrote", block, pass)
		}
	}
	return nil
}

// finish leaves known contents.
func (c crew) finish(disk *os.File) error {
	for _, w := range c {
		for i := range w.passes {
			block := w.first + int64(i)
			pattern(w.buf, block, lastPass)
			if _, err := disk.WriteAt(w.buf, block*blockSize); err != nil {
				return err
			}
			w.passes[i] = lastPass
		}
	}
	return c.verify(disk)
}
