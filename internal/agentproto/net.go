package agentproto

import (
	"fmt"
	"net/netip"
)

// Net says how a network card is set up.
type Net struct {
	// Addresses are its own, each with its network's size: "10.0.2.15/24". Without any, the card is only switched on.
	Addresses []string `json:"addresses,omitempty"`
	// Gateways are where all else is sent, one of each family at the most.
	Gateways []string `json:"gateways,omitempty"`
}

func (n *Net) check() error {
	for _, a := range n.Addresses {
		if _, err := netip.ParsePrefix(a); err != nil {
			return fmt.Errorf("network card: %w", err)
		}
	}
	for _, g := range n.Gateways {
		if _, err := netip.ParseAddr(g); err != nil {
			return fmt.Errorf("network card: gateway: %w", err)
		}
	}
	return nil
}
