// Package random is the kernel's ABI for feeding its random number generator (linux/random.h): a struct and ioctl numbers. No code.
// Every size, offset and number is compared with what a C program prints from the kernel's headers.
package random

// ioctl numbers of /dev/random, for CAP_SYS_ADMIN alone.
const (
	AddEntropy = 0x40085203 // RNDADDENTROPY: PoolInfo and its bytes
	ReseedCRNG = 0x5207     // RNDRESEEDCRNG: no argument; ENODATA before the pool was filled once
)

// PoolInfo is struct rand_pool_info, with room for Seed bytes.
type PoolInfo struct {
	EntropyCount int32 // bits that the bytes are worth
	Size         int32 // bytes
	Buf          [Seed]byte
}

// Seed is how many bytes fill the kernel's pool: 256 bits.
const Seed = 32
