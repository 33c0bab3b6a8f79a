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
