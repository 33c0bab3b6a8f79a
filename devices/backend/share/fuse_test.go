package share_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/hugelgupf/p9/p9"

	"github.com/stile-vmm/stile/devices/backend/share"
	"github.com/stile-vmm/stile/internal/testenv"
)

// TestLinkSize answers the length of a link's target, which Linux 7.2 cuts the target to, whatever the host's file system says.
func TestLinkSize(t *testing.T) {
	for _, size := range []uint64{0, 5, 4096} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			const target = "some/where"
			dir := testenv.MountLink(t, target, size)
			if told, err := os.Lstat(dir + "/link"); err != nil || uint64(told.Size()) != size {
				t.Fatalf("the host says %v, %v", told, err)
			}
			link := walk(t, mount(t, share.Config{Path: dir, ReadOnly: true}), "link")
			_, _, attr, err := link.GetAttr(p9.AttrMaskAll)
			must(t, err)
			if attr.Size != uint64(len(target)) || attr.Mode.FileType() != p9.ModeSymlink {
				t.Errorf("%v, want size %d", attr, len(target))
			}
			if got, err := link.Readlink(); err != nil || got != target {
				t.Errorf("target %q, %v", got, err)
			}
		})
	}
}
