package agent

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/sys"
	"github.com/stile-vmm/stile/internal/uapi/random"
)

// kernelRandom is the kernel's random number generator.
const kernelRandom = "/dev/random"

// reseed gives the kernel at device the host's random bytes, and makes it forget what it would have answered: each
// resume of a saved machine starts from the same memory. What programs draw from then on, the kernel's own users of
// random numbers and the vDSO's getrandom included, follows from seed.
//
// This process drew the seeds of its maps and of its scheduler before the machine was saved. No name, key or
// number that leaves it comes from them: no package of the agent uses math/rand or hash/maphash.
func reseed(device string, seed agentproto.Seed) error {
	f, err := sys.Open(device, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("give the kernel random bytes: %w", err)
	}
	defer f.Close()
	info := random.PoolInfo{EntropyCount: 8 * random.Seed, Size: random.Seed, Buf: seed}
	if _, err := sys.IoctlPtr(f, random.AddEntropy, &info); err != nil {
		return fmt.Errorf("give the kernel random bytes: RNDADDENTROPY of %s: %w", device, err)
	}
	if _, err := f.Ioctl(random.ReseedCRNG, 0); err != nil {
		return fmt.Errorf("reseed the kernel's random numbers: RNDRESEEDCRNG of %s: %w", device, err)
	}
	return nil
}
