package agentproto

import (
	"fmt"
	"net/netip"
)

// Net says how a network card is set up.
type Net struct {
	// Address is its own, with the network's size: "10.0.2.15/24". Without, the card is only switched on.
	Address string `json:"address,omitempty"`
	// Gateway is where all else is sent, "" if nowhere.
	Gateway string `json:"gateway,omitempty"`
}

func (n *Net) check() error {
	if n.Address != "" {
		if _, err := netip.ParsePrefix(n.Address); err != nil {
			return fmt.Errorf("network card: %w", err)
		}
	}
	if n.Gateway == "" {
		return nil
	}
	if _, err := netip.ParseAddr(n.Gateway); err != nil {
		return fmt.Errorf("network card: gateway: %w", err)
	}
	return nil
}
