// Package usernet is a network that needs no privileges: behind the guest's card there is a TCP/IP stack in this process
// (gVisor's), which ends the guest's connections and makes the same ones with the host's sockets.
//
// The guest sees a gateway, which stands for the host itself, a name server, and a DHCP server; the addresses follow from
// Config.CIDR. IPv4 only. All that a guest can make grow is bounded: see the constants in limits.go.
//
// Closing: Stack.Close ends forwards and connections, then the stack; the Queue may not be in use any more.
package usernet
