package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/stile-vmm/stile/devices/backend/network/usernet"
	"github.com/stile-vmm/stile/internal/agentproto"
	"github.com/stile-vmm/stile/internal/bytejson"
	"github.com/stile-vmm/stile/internal/session"
	"github.com/stile-vmm/stile/vmm"
)

// envNets carries outsideNets, as JSON, to a process in the nested host.
const envNets = "STILE_NETS"

// outsideNets is what a process in the nested host has to know of its guest's networks without privileges, which are outside.
type outsideNets struct {
	Paths  []string // of sockets: behind the i-th is the i-th of these networks
	Search []string // the domains in which the user's host looks for names
}

// readOutside returns nil where the networks are here.
func readOutside() (*outsideNets, error) {
	text := os.Getenv(envNets)
	if text == "" || !Nested() {
		return nil, nil
	}
	o := &outsideNets{}
	if err := bytejson.Unmarshal([]byte(text), o); err != nil {
		return nil, fmt.Errorf("%s: %w", envNets, err)
	}
	return o, nil
}

// nets returns the guest's network cards.
func (s Spec) nets() ([]vmm.Net, error) {
	var nets []vmm.Net
	var faults []error
	for _, text := range s.Nets {
		n, err := vmm.ParseNet(text)
		nets = append(nets, n)
		faults = append(faults, err)
	}
	vmm.PlaceNets(nets)
	return nets, errors.Join(faults...)
}

// validateNets reports every fault.
func (s Spec) validateNets() error {
	nets, err := s.nets()
	if err != nil {
		return err
	}
	return (&vmm.Config{Kernel: "unknown", Memory: DefaultMemory, Nets: nets}).Validate()
}

// cards returns the guest's network cards as this process has them: in the nested host those without privileges end
// outside, where the user's network is.
func (s Spec) cards() ([]vmm.Net, error) {
	nets, err := s.nets()
	if err != nil {
		return nets, err
	}
	outside, err := readOutside()
	if err != nil || outside == nil {
		return nets, err
	}
	paths := outside.Paths
	for i := range nets {
		if nets[i].Kind != vmm.NetUser || len(paths) == 0 {
			continue
		}
		nets[i].Kind, nets[i].Name, nets[i].User.Forwards = vmm.NetStream, paths[0], nil
		paths = paths[1:]
	}
	return nets, nil
}

// setupNets says how the agent sets the network cards up.
func (s Spec) setupNets(out *agentproto.Setup) {
	nets, err := s.nets()
	if err != nil {
		return // was reported when the machine was made
	}
	for _, n := range nets {
		var setup agentproto.Net
		switch {
		case n.Kind == vmm.NetUser:
			a := n.User.Addresses()
			setup.Addresses, setup.Gateways = []string{a.Guest.String()}, []string{a.Gateway.String()}
			if a.Guest6.IsValid() {
				setup.Addresses, setup.Gateways = append(setup.Addresses, a.Guest6.String()), append(setup.Gateways, a.Gateway6.String())
			}
			if out.Resolv == "" {
				out.Resolv = fmt.Sprintf("nameserver %v\n%s", a.DNS, searchLine())
			}
		case n.Address.IsValid():
			setup.Addresses = []string{n.Address.String()}
			if n.Gateway.IsValid() {
				setup.Gateways = []string{n.Gateway.String()}
			}
		}
		out.Nets = append(out.Nets, setup)
	}
}

// searchLine returns the line of the guest's resolv.conf with the domains of the user's host, "" without any.
func searchLine() string {
	domains := usernet.SearchDomains()
	if outside, err := readOutside(); err == nil && outside != nil {
		domains = outside.Search
	}
	if len(domains) == 0 {
		return ""
	}
	return "search " + strings.Join(domains, " ") + "\n"
}

// labNets are the networks without privileges of a guest in the nested host. They are here, so that the guest reaches what
// this host does, and forwards are this host's ports; frames go through the channel to the nested host's agent.
type labNets struct {
	stacks    []*usernet.Stack
	listeners []*session.Listener
	paths     []string
	serving   sync.WaitGroup
}

// openNets makes the networks of s, with their forwards.
func openNets(s Spec) (*labNets, error) {
	l := &labNets{}
	nets, err := s.nets()
	if err != nil {
		return nil, err
	}
	for _, n := range nets {
		if n.Kind != vmm.NetUser {
			return nil, errors.Join(fmt.Errorf("--net %s=%s: a guest in the lab can't have an interface of this host: use --net user", n.Kind, n.Name), l.close())
		}
		stack, err := usernet.New(n.User)
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.stacks = append(l.stacks, stack)
	}
	return l, nil
}

// listen waits for the networks' cards in the nested host.
func (l *labNets) listen(ctx context.Context, s *session.Session) error {
	for i, stack := range l.stacks {
		path := fmt.Sprintf("/run/stile-net-%d", i) // nobody else is there
		listener, err := s.Listen(ctx, "unix", path)
		if err != nil {
			return err
		}
		l.listeners, l.paths = append(l.listeners, listener), append(l.paths, path)
		l.serving.Go(func() { serveNet(listener, stack) })
	}
	return nil
}

// serveNet serves one card after the other, until the listener is closed.
func serveNet(l net.Listener, stack *usernet.Stack) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_ = vmm.ServeNet(conn, stack) // the guest's process tells its user
	}
}

// env tells a process in the nested host.
func (l *labNets) env() ([]string, error) {
	if len(l.paths) == 0 {
		return nil, nil
	}
	text, err := bytejson.Marshal(outsideNets{l.paths, usernet.SearchDomains()})
	return []string{envNets + "=" + string(text)}, err
}

// close ends the networks. The nested host has ended.
func (l *labNets) close() error {
	if l == nil {
		return nil
	}
	var errs []error
	for _, listener := range l.listeners {
		errs = append(errs, listener.Close())
	}
	l.serving.Wait()
	for _, s := range l.stacks {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
