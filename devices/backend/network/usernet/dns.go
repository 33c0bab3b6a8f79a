package usernet

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// Fields of a DNS message's header (RFC 1035, 4.1.1).
const (
	dnsHeader   = 12 // bytes
	dnsResponse = 0x80
	dnsFailed   = 2 // SERVFAIL
)

// resolvers returns the name servers to ask, at least one.
func (s *Stack) resolvers() []netip.AddrPort {
	if s.resolver.IsValid() {
		return []netip.AddrPort{s.resolver}
	}
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		text = nil
	}
	return parseResolvers(string(text))
}

// nameServer reports whether an address is that of the network's name server.
func (s *Stack) nameServer(a netip.Addr) bool { return a == s.addresses.DNS || a == s.addresses.DNS6 }

// SearchDomains returns the domains in which this host looks for names, from resolv.conf(5).
func SearchDomains() []string {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return parseSearch(string(text))
}

// parseSearch reads resolv.conf(5), of which the last line counts. What is no domain's name is left out.
func parseSearch(text string) []string {
	var domains []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "search":
			domains = fields[1:]
		case fields[0] == "domain":
			domains = fields[1:2]
		}
	}
	var out []string
	for _, d := range domains {
		if d = strings.TrimSuffix(d, "."); len(out) < maxSearch && encodeName(d) != nil {
			out = append(out, d)
		}
	}
	return out
}

// encodeName returns a domain's name as DNS has it (RFC 1035, 3.1), without compression. It returns nil if that can't be.
func encodeName(name string) []byte {
	const maxLabel, maxName = 63, 255 // bytes
	var b []byte
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return nil
		}
		b = append(append(b, byte(len(label))), label...)
	}
	if b = append(b, 0); len(b) > maxName {
		return nil
	}
	return b
}

// encodeNames returns the names that fit in limit bytes.
func encodeNames(names []string, limit int) []byte {
	var b []byte
	for _, name := range names {
		if e := encodeName(name); len(b)+len(e) <= limit {
			b = append(b, e...)
		}
	}
	return b
}

// parseResolvers reads resolv.conf(5). Without a name server it is the one on this host, as for the C library.
func parseResolvers(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == maxResolver {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, dnsPort))
		}
	}
	if len(servers) == 0 {
		servers = append(servers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort))
	}
	return servers
}

// resolve answers the queries of one port of the guest, until none has come for a while.
func (s *Stack) resolve(guest *gonet.UDPConn) {
	defer context.AfterFunc(s.ctx, func() { _ = guest.SetDeadline(time.Unix(1, 0)) })()
	var pending sync.WaitGroup
	defer pending.Wait()
	buf := make([]byte, maxDatagram)
	for {
		_ = guest.SetReadDeadline(time.Now().Add(udpIdle)) // fails only when closed
		if s.ctx.Err() != nil {
			return // the deadline of its end may have come before
		}
		n, err := guest.Read(buf)
		if err != nil {
			return
		}
		if n < dnsHeader || buf[2]&dnsResponse != 0 || !take(s.queries) {
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		pending.Go(func() {
			defer func() { <-s.queries }()
			_, _ = guest.Write(s.ask(query)) // an answer may be lost
		})
	}
}

// ask asks one name server after the other, and returns the answer, or one that says that there is none.
func (s *Stack) ask(query []byte) []byte {
	for _, server := range s.resolvers() {
		if answer, err := s.askOne(server, query); err == nil {
			return answer
		}
	}
	failed := append([]byte(nil), query...)
	failed[2] |= dnsResponse
	failed[3] = failed[3]&0xf0 | dnsFailed
	return failed
}

func (s *Stack) askOne(server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, queryLimit)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= dnsHeader && binary.BigEndian.Uint16(buf) == binary.BigEndian.Uint16(query) && buf[2]&dnsResponse != 0 {
			return buf[:n], nil
		}
	}
}
