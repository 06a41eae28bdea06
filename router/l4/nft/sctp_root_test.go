//go:build linux && root

package nft_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
)

// Kernels often lack SCTP sockets, but connections are translated all the same.
// So two packets are made by hand: an INIT, and the INIT ACK that answers it.
const (
	sctpHeader = 12
	sctpInit   = 1
	sctpAck    = 2
)

// sctp makes a packet of one chunk with text in a parameter.
func sctp(from, to uint16, tag uint32, kind byte, text string) []byte {
	param := binary.BigEndian.AppendUint16(nil, 0x8008) // supported extensions: may hold anything
	param = append(binary.BigEndian.AppendUint16(param, uint16(4+len(text))), text...)
	for len(param)%4 != 0 {
		param = append(param, 0)
	}
	chunk := []byte{kind, 0}
	chunk = binary.BigEndian.AppendUint16(chunk, uint16(20+len(param)))
	chunk = append(chunk, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1) // initiate tag 7, window, streams, sequence number
	p := binary.BigEndian.AppendUint16(nil, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = binary.BigEndian.AppendUint32(p, tag)
	p = append(append(p, 0, 0, 0, 0), append(chunk, param...)...)
	sum := crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(p[8:], sum)
	return p
}

// parseSCTP reads such a packet.
func parseSCTP(p []byte) (from, to uint16, kind byte, text string, err error) {
	const head = sctpHeader + 20 + 4
	if len(p) < head || len(p) < head-4+int(binary.BigEndian.Uint16(p[head-2:])) {
		return 0, 0, 0, "", errors.New("the packet is short")
	}
	end := head - 4 + int(binary.BigEndian.Uint16(p[head-2:]))
	return binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:]), p[sctpHeader], string(p[head:end]), nil
}

func ipNetwork(a netip.Addr) string {
	if a.Is4() {
		return "ip4:132"
	}
	return "ip6:132"
}

func serveSCTP(t testing.TB, a netip.AddrPort) error {
	c, err := net.ListenIP(ipNetwork(a.Addr()), &net.IPAddr{IP: a.Addr().AsSlice()})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, peer, err := c.ReadFromIP(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			from, to, kind, _, perr := parseSCTP(buf[:n])
			if err != nil || perr != nil || to != a.Port() || kind != sctpInit {
				continue
			}
			client, _ := netip.AddrFromSlice(peer.IP)
			_, _ = c.WriteToIP(sctp(to, from, 7, sctpAck, a.String()+" "+client.Unmap().String()), peer)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return nil
}

func exchangeSCTP(k l4.Packet, wait time.Duration) (string, error) {
	c, err := net.DialIP(ipNetwork(k.Source), &net.IPAddr{IP: k.Source.AsSlice()}, &net.IPAddr{IP: k.Destination.Addr().AsSlice()})
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	own := uint16(1024 + rand.IntN(60000))
	if _, err := c.Write(sctp(own, k.Destination.Port(), 0, sctpInit, "")); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFromIP(buf)
		if err != nil {
			return "", err
		}
		if _, to, kind, text, err := parseSCTP(buf[:n]); err == nil && to == own && kind == sctpAck {
			return text, nil
		}
	}
}
