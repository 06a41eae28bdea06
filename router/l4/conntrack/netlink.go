//go:build linux

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of ctnetlink's attributes and messages, those that are used here
// (linux/netfilter/nfnetlink_conntrack.h). x/sys has none of them.
const (
	msgGet    = 1
	msgDelete = 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaID         = 12
	ctaFilter     = 25 // since Linux 5.8

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Source      = 1
	ctaIPv4Destination = 2
	ctaIPv6Source      = 3
	ctaIPv6Destination = 4

	ctaProtoNumber          = 1
	ctaProtoSourcePort      = 2
	ctaProtoDestinationPort = 3

	ctaFilterOrigFlags = 1
	// Which parts of the tuple a filter compares.
	filterDestination     = 1 << 1
	filterProtocol        = 1 << 3
	filterDestinationPort = 1 << 5
)

// destinationTranslated is IPS_DST_NAT, a bit of ctaStatus.
const destinationTranslated = 1 << 5

// flow is a UDP flow as the kernel knows it.
type flow struct {
	to           netip.AddrPort // where the client sent it
	answeredFrom netip.AddrPort
	// original and id are what the kernel knows it by.
	original, id []byte
	ipv6         bool
}

// query narrows a list of UDP flows, by where the client sent them. There may
// be others in the list.
type query struct {
	ipv6    bool
	address netip.Addr // invalid: any
	port    uint16     // 0: any
}

// list returns the flows that a query names. The kernel picks them out.
func (t *Table) list(q query) ([]flow, error) {
	flags := uint32(filterProtocol)
	var ip []byte
	// Kernels compare IPv6 addresses the wrong way round, and leave out what
	// was asked for (seen in 6.18): of those the port has to do.
	if q.address.Is4() {
		flags |= filterDestination
		ip = nested(ctaTupleIP, attribute(ctaIPv4Destination, q.address.AsSlice()))
	}
	proto := attribute(ctaProtoNumber, []byte{unix.IPPROTO_UDP})
	if q.port != 0 {
		flags |= filterDestinationPort
		proto = append(proto, attribute(ctaProtoDestinationPort, binary.BigEndian.AppendUint16(nil, q.port))...)
	}
	data := nested(ctaTupleOrig, append(ip, nested(ctaTupleProto, proto)...))
	data = append(data, nested(ctaFilter, attribute(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)))...)
	replies, err := t.ask(msgGet, netlink.Dump, q.ipv6, data)
	if err != nil {
		return nil, err
	}
	out := make([]flow, 0, len(replies))
	for _, m := range replies {
		if f, err := parse(m.Data, q.ipv6); err == nil {
			out = append(out, f)
		}
	}
	return out, nil
}

// translated counts the flows of a family, of any protocol, that lead elsewhere
// than the client sent them.
func (t *Table) translated(ipv6 bool) (int, error) {
	replies, err := t.ask(msgGet, netlink.Dump, ipv6, nil)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, m := range replies {
		err := decode(m.Data[min(4, len(m.Data)):], func(kind uint16, value []byte) error {
			if kind == ctaStatus && len(value) == 4 && binary.BigEndian.Uint32(value)&destinationTranslated != 0 {
				n++
			}
			return nil
		})
		if err != nil {
			return n, fmt.Errorf("conntrack: %w", err)
		}
	}
	return n, nil
}

// remove deletes a flow, unless another has taken its place.
func (t *Table) remove(f flow) error {
	data := nested(ctaTupleOrig, f.original)
	data = append(data, attribute(ctaID, f.id)...)
	_, err := t.ask(msgDelete, netlink.Acknowledge, f.ipv6, data)
	return err
}

// ask sends a request. A list that the table overtook is taken as it is: flows
// that were missed are found by the next one.
func (t *Table) ask(message uint16, flags netlink.HeaderFlags, ipv6 bool, data []byte) ([]netlink.Message, error) {
	family := byte(unix.AF_INET)
	if ipv6 {
		family = unix.AF_INET6
	}
	replies, err := t.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | message), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	return replies, nil
}

// parse reads a flow.
func parse(data []byte, ipv6 bool) (flow, error) {
	f := flow{ipv6: ipv6}
	if len(data) < 4 {
		return f, errShort
	}
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return f, err
	}
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			f.original = ad.Bytes()
			_, f.to, err = parseTuple(f.original)
		case ctaTupleReply:
			f.answeredFrom, _, err = parseTuple(ad.Bytes())
		case ctaID:
			f.id = ad.Bytes()
		}
		if err != nil {
			return f, err
		}
	}
	if !f.to.IsValid() || !f.answeredFrom.IsValid() || f.id == nil {
		return f, errShort
	}
	return f, ad.Err()
}

var errShort = errors.New("the kernel's answer lacks something")

// parseTuple reads the two ends of one direction.
func parseTuple(data []byte) (source, destination netip.AddrPort, err error) {
	var from, to netip.Addr
	var fromPort, toPort uint16
	err = decode(data, func(kind uint16, value []byte) error {
		switch kind {
		case ctaTupleIP:
			return decode(value, func(kind uint16, value []byte) error {
				switch kind {
				case ctaIPv4Source, ctaIPv6Source:
					from, _ = netip.AddrFromSlice(value)
				case ctaIPv4Destination, ctaIPv6Destination:
					to, _ = netip.AddrFromSlice(value)
				}
				return nil
			})
		case ctaTupleProto:
			return decode(value, func(kind uint16, value []byte) error {
				switch {
				case kind == ctaProtoSourcePort && len(value) == 2:
					fromPort = binary.BigEndian.Uint16(value)
				case kind == ctaProtoDestinationPort && len(value) == 2:
					toPort = binary.BigEndian.Uint16(value)
				}
				return nil
			})
		}
		return nil
	})
	return netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort), err
}

func decode(data []byte, do func(kind uint16, value []byte) error) error {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	for ad.Next() {
		if err := do(ad.Type(), ad.Bytes()); err != nil {
			return err
		}
	}
	return ad.Err()
}

func attribute(kind uint16, data []byte) []byte {
	out, _ := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: data}}) // fails beyond 64 kB only
	return out
}

func nested(kind uint16, data []byte) []byte { return attribute(kind|unix.NLA_F_NESTED, data) }
