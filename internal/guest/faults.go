package guest

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/stile-vmm/stile/internal/kreport"
	"github.com/stile-vmm/stile/vmm"
)

// faultLog watches the console of a guest whose VM is in another process for reports of its kernel. It is an io.Writer that never
// fails, for one goroutine at a time; the other methods may be called concurrently.
type faultLog struct {
	actions vmm.Reports
	notice  func(string)

	mu   sync.Mutex
	line []byte
	log  *kreport.Merged
}

const (
	maxFaultLine    = 512 // bytes of a line that are looked at
	maxFaultNotices = 8   // notices for reports of one kind
)

func newFaultLog(s Spec, notice func(string)) *faultLog {
	return &faultLog{actions: s.onReport(), notice: notice, log: kreport.NewMerged(kreport.LinesTimed(s.cmdline()))}
}

func (f *faultLog) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for rest := p; len(rest) > 0; {
		part, tail, ended := bytes.Cut(rest, []byte{'\n'})
		f.line = append(f.line, part[:min(len(part), maxFaultLine-len(f.line))]...)
		if ended {
			f.endLine()
		}
		rest = tail
	}
	return len(p), nil
}

func (f *faultLog) endLine() {
	r, begins := f.log.Console(f.line)
	f.line = f.line[:0]
	if begins {
		f.tell(r)
	}
}

// record takes a record of the kernel's ring buffer, and returns its lines that the console did not have.
func (f *faultLog) record(line []byte) []byte {
	r, ok := kreport.ParseRecord(line)
	if !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	report, begins, fresh := f.log.Record(r)
	if begins {
		f.tell(report)
	}
	return fresh
}

func (f *faultLog) tell(r vmm.Report) {
	if f.actions.Of(r.Kind) == kreport.Warn && f.log.Count(r.Kind) <= maxFaultNotices {
		f.notice(fmt.Sprintf("the guest's kernel reports (%s) and goes on: %s", r.Kind, r.Text))
	}
}

// reports returns what was reported so far.
func (f *faultLog) reports() []vmm.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Reports()
}

// fault returns an error if a report ends the guest.
func (f *faultLog) fault(s Spec) error {
	if s.KeepGoing {
		return nil
	}
	reports := f.reports()
	i := slices.IndexFunc(reports, func(r vmm.Report) bool {
		return slices.Contains(kreport.Chosen(), r.Kind) && f.actions.Of(r.Kind) == kreport.Stop
	})
	if i < 0 {
		return nil
	}
	return &DiedError{vmm.Result{Reason: vmm.Reason(reports[i].Kind), Detail: reports[i].Head(faultLines)}}
}

// faultLines is how many lines of a report an error has.
const faultLines = 12
