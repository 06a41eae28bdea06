//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// element is an element of one of our sets, in the form in which the kernel
// has it. Comparable.
type element struct {
	set            *nftables.Set
	key, end, data string // end only for ranges, data only for maps
	chain          string // in place of data, for maps of verdicts
}

// appendTo appends the element as the kernel is told of it.
func (e element) appendTo(a attrs) attrs {
	a, item := a.nest(unix.NFTA_LIST_ELEM)
	a = appendValue(a, unix.NFTA_SET_ELEM_KEY, e.key)
	if e.end != "" {
		a = appendValue(a, setElemKeyEnd, e.end)
	}
	switch {
	case e.chain != "":
		var data, verdict int
		a, data = a.nest(unix.NFTA_SET_ELEM_DATA)
		a, verdict = a.nest(unix.NFTA_DATA_VERDICT)
		to := int32(unix.NFT_GOTO)
		a = a.number(unix.NFTA_VERDICT_CODE, uint32(to)).text(unix.NFTA_VERDICT_CHAIN, e.chain).close(verdict).close(data)
	case e.data != "":
		a = appendValue(a, unix.NFTA_SET_ELEM_DATA, e.data)
	}
	return a.close(item)
}

func appendValue(a attrs, kind uint16, v string) attrs {
	a, at := a.nest(kind)
	return a.data(unix.NFTA_DATA_VALUE, v).close(at)
}

// In keys of several parts, each is filled up to a multiple of four bytes.

func appendProtocol(b []byte, p l4.Protocol) []byte { return append(b, byte(p), 0, 0, 0) }

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	return appendPort(append(b, a.Addr().AsSlice()...), a.Port())
}

// endpoint is the i-th of a pool.
func (f *family) endpoint(pool uint32, i int, a netip.AddrPort) element {
	key := append(word(operand(pool)), word(value(i))...)
	return element{set: f.sets.endpoints, key: string(key), data: string(appendAddrPort(nil, a))}
}

// front is the address of a front, leading to a value.
func (f *family) front(p l4.Protocol, fr l4.Front, v value) element {
	if fr.Kind == l4.NodePort {
		return element{set: f.sets.nodePorts, key: string(appendPort(appendProtocol(nil, p), fr.Port)), data: string(word(v))}
	}
	key := appendPort(appendProtocol(fr.Address.AsSlice(), p), fr.Port)
	return element{set: f.sets.fronts, key: string(key), data: string(word(v))}
}

// sourceRange lets the addresses of a prefix use a special front.
func (f *family) sourceRange(number uint32, p netip.Prefix) element {
	first := p.Masked().Addr().AsSlice()
	last := append([]byte(nil), first...)
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	id := word(operand(number))
	return element{set: f.sets.ranges, key: string(append(id, first...)), end: string(append(id[:4:4], last...))}
}

func (f *family) clusterIP(a netip.Addr) element {
	return element{set: f.sets.clusterIPs, key: string(a.AsSlice())}
}

func (f *family) nodeAddress(a netip.Addr) element {
	return element{set: f.sets.nodeAddresses, key: string(a.AsSlice())}
}

func (f *family) loop(l l4.Loop) element {
	a := l.Endpoint.Addr().AsSlice()
	key := appendPort(appendProtocol(append(a[:len(a):len(a)], a...), l.Protocol), l.Endpoint.Port())
	return element{set: f.sets.loops, key: string(key)}
}
