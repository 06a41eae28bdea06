//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// message is a flow as the kernel tells it.
func message(from, to, answered netip.AddrPort) []byte {
	source, destination := uint16(ctaIPv4Source), uint16(ctaIPv4Destination)
	if from.Addr().Is6() {
		source, destination = ctaIPv6Source, ctaIPv6Destination
	}
	tuple := func(a, b netip.AddrPort) []byte {
		ip := append(attribute(source, a.Addr().AsSlice()), attribute(destination, b.Addr().AsSlice())...)
		proto := append(attribute(ctaProtoNumber, []byte{17}), attribute(ctaProtoSourcePort, binary.BigEndian.AppendUint16(nil, a.Port()))...)
		proto = append(proto, attribute(ctaProtoDestinationPort, binary.BigEndian.AppendUint16(nil, b.Port()))...)
		return append(nested(ctaTupleIP, ip), nested(ctaTupleProto, proto)...)
	}
	data := append([]byte{2, 0, 0, 0}, nested(ctaTupleOrig, tuple(from, to))...)
	data = append(data, nested(ctaTupleReply, tuple(answered, from))...)
	return append(data, attribute(ctaID, []byte{0, 0, 0, 1})...)
}

func TestParse(t *testing.T) {
	for _, test := range [][3]string{
		{"203.0.113.5:999", "172.30.0.10:53", "10.180.0.5:5353"},
		{"[fd00::1]:999", "[fd00::10]:53", "[fd01::5]:5353"},
	} {
		from, to, answered := netip.MustParseAddrPort(test[0]), netip.MustParseAddrPort(test[1]), netip.MustParseAddrPort(test[2])
		f, err := parse(message(from, to, answered), from.Addr().Is6())
		if err != nil || f.to != to || f.answeredFrom != answered || len(f.id) != 4 || f.original == nil {
			t.Errorf("%v: %+v, %v", test, f, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	a, b, c := netip.MustParseAddrPort("203.0.113.5:999"), netip.MustParseAddrPort("172.30.0.10:53"), netip.MustParseAddrPort("10.180.0.5:5353")
	whole := message(a, b, c)
	f.Add(whole)
	f.Add(whole[:len(whole)-12])
	f.Add(message(netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:2"), netip.MustParseAddrPort("[fd00::3]:3")))
	f.Fuzz(func(t *testing.T, data []byte) {
		flow, err := parse(data, false)
		if err == nil && (!flow.to.IsValid() || !flow.answeredFrom.IsValid()) {
			t.Errorf("%+v without an error", flow)
		}
	})
}
