package iommufd

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stile-vmm/stile/internal/testenv"
	"github.com/stile-vmm/stile/internal/uapi/golden"
)

const goldenFile = "testdata/facts.golden"

// TestGoldenFileIsWhatTheHeadersSay needs headers of Linux 6.2 or later; C_INCLUDE_PATH
// can lead to some.
func TestGoldenFileIsWhatTheHeadersSay(t *testing.T) {
	requireHeader(t)
	golden.Program(t, "testdata/facts.c", goldenFile)
}

func requireHeader(t *testing.T) {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		testenv.Missing(t, "cc", err.Error())
	}
	cmd := exec.Command(cc, "-E", "-x", "c", "-o", "/dev/null", "-")
	cmd.Stdin = strings.NewReader("#include <linux/iommufd.h>\n")
	if err := cmd.Run(); err != nil {
		testenv.Missing(t, "headers", "linux/iommufd.h comes with Linux 6.2 and later")
	}
}

func TestABI(t *testing.T) {
	facts := golden.Facts{}
	for _, l := range []struct {
		cname string
		value any
		names string
	}{
		{"iommu_destroy", DestroyArg{}, "size id"},
		{"iommu_ioas_alloc", IOASAllocArg{}, "size flags out_ioas_id"},
		{"iommu_iova_range", IOVARange{}, "start last"},
		{"iommu_ioas_iova_ranges", IOVARangesArg{}, "size ioas_id num_iovas __reserved allowed_iovas out_iova_alignment"},
		{"iommu_ioas_allow_iovas", AllowIOVAsArg{}, "size ioas_id num_iovas __reserved allowed_iovas"},
		{"iommu_ioas_map", IOASMapArg{}, "size flags ioas_id __reserved user_va length iova"},
		{"iommu_ioas_copy", IOASCopyArg{}, "size flags dst_ioas_id src_ioas_id length dst_iova src_iova"},
		{"iommu_ioas_unmap", IOASUnmapArg{}, "size ioas_id iova length"},
		{"iommu_option", OptionArg{}, "size option_id op __reserved object_id val64"},
	} {
		if err := facts.Struct(l.cname, l.value, l.names); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]uint64{
		"IOMMU_DESTROY":             Destroy,
		"IOMMU_IOAS_ALLOC":          IOASAlloc,
		"IOMMU_IOAS_ALLOW_IOVAS":    IOASAllowIOVAs,
		"IOMMU_IOAS_COPY":           IOASCopy,
		"IOMMU_IOAS_IOVA_RANGES":    IOASIOVARanges,
		"IOMMU_IOAS_MAP":            IOASMap,
		"IOMMU_IOAS_UNMAP":          IOASUnmap,
		"IOMMU_OPTION":              Option,
		"IOMMU_IOAS_MAP_FIXED_IOVA": MapFixedIOVA,
		"IOMMU_IOAS_MAP_WRITEABLE":  MapWriteable,
		"IOMMU_IOAS_MAP_READABLE":   MapReadable,
		"IOMMU_OPTION_RLIMIT_MODE":  OptionRlimitMode,
		"IOMMU_OPTION_HUGE_PAGES":   OptionHugePages,
		"IOMMU_OPTION_OP_SET":       OptionSet,
		"IOMMU_OPTION_OP_GET":       OptionGet,
	} {
		facts[name] = value
	}
	golden.Check(t, goldenFile, facts)
}
