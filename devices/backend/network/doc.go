// Package network is what stands behind a guest's network card: the contract between card and network, taps and
// macvtaps of the host, and networks at the other end of a byte stream. Package usernet has the network that needs no
// privileges.
//
// A frame is an Ethernet frame behind a header of HeaderSize bytes, struct virtio_net_hdr_v1 (virtio 1.3, 5.1.6),
// little-endian: it says which checksum is still to be made and into which pieces the frame is to be cut. So do Linux's
// taps it (linux/if_tun.h, IFF_VNET_HDR), and nothing has to be translated.
package network
