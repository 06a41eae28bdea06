//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sent splits a batch as the kernel does.
func sent(t *testing.T, b []byte) []netlink.Message {
	t.Helper()
	var out []netlink.Message
	for len(b) > 0 {
		if len(b) < headerSize {
			t.Fatalf("%d bytes are left over", len(b))
		}
		size := binary.NativeEndian.Uint32(b)
		if size < headerSize || size%4 != 0 || int(size) > len(b) {
			t.Fatalf("a message says that it has %d bytes, of %d", size, len(b))
		}
		var m netlink.Message
		m.Header.Type = netlink.HeaderType(binary.NativeEndian.Uint16(b[4:]))
		m.Header.Flags = netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:]))
		m.Header.Sequence = binary.NativeEndian.Uint32(b[8:])
		m.Data = b[headerSize:size]
		out, b = append(out, m), b[size:]
	}
	return out
}

// FuzzElements: whatever elements a batch is given are in what is sent, in their
// order, in messages that the kernel can take.
func FuzzElements(f *testing.F) {
	for _, n := range []uint16{0, 1, chunk, chunk + 1, 3*chunk + 7} {
		f.Add(n, uint32(77), []byte{10, 1, 2, 3}, uint16(8080), false)
	}
	f.Add(uint16(500), uint32(1<<operandBits-1), netip.MustParseAddr("2001:db8::1").AsSlice(), uint16(53), true)
	families := map[bool]*family{}
	for _, ipv6 := range []bool{false, true} {
		families[ipv6] = newFamily(Options{TableName: defaultTable}, ipv6)
	}
	f.Fuzz(func(t *testing.T, n uint16, pool uint32, address []byte, port uint16, remove bool) {
		a, ok := netip.AddrFromSlice(address)
		if !ok {
			return
		}
		fam := families[a.Is6()]
		b, tr := newBatch(), &transaction{}
		var want []element
		for i := range int(n) % (5 * chunk) {
			e := fam.endpoint(pool%(1<<operandBits), i, netip.AddrPortFrom(a, port))
			if want = append(want, e); remove {
				b.remove(e)
			} else {
				b.add(e)
			}
		}
		b.write(tr)
		messages := sent(t, tr.encode(1))
		var got []listed
		for i, m := range messages {
			if m.Header.Sequence != uint32(i) {
				t.Fatalf("message %d has the number %d", i, m.Header.Sequence)
			}
			if i == 0 || i == len(messages)-1 {
				continue
			}
			if len(m.Data) > 1<<16-1 {
				t.Fatalf("the list of a message cannot have %d bytes", len(m.Data))
			}
			var err error
			if got, err = appendListed(got, m); err != nil {
				t.Fatal(err)
			}
		}
		if first, last := messages[0].Header.Type, messages[len(messages)-1].Header.Type; first != unix.NFNL_MSG_BATCH_BEGIN || last != unix.NFNL_MSG_BATCH_END {
			t.Fatalf("the batch goes from %d to %d", first, last)
		}
		if len(got) != len(want) {
			t.Fatalf("%d elements are sent, want %d", len(got), len(want))
		}
		for i, e := range want {
			if got[i].key != e.key || got[i].data != e.data {
				t.Fatalf("element %d is sent as %x: %x, want %x: %x", i, got[i].key, got[i].data, e.key, e.data)
			}
		}
	})
}

// FuzzListed: an answer that is cut or garbled is an error or has fewer elements,
// and no more.
func FuzzListed(f *testing.F) {
	fam := newFamily(Options{TableName: defaultTable}, false)
	l := additions(fam.sets.endpoints)
	for i := range 3 {
		l.append(fam.endpoint(7, i, netip.MustParseAddrPort("10.0.0.1:80")))
	}
	l.finish()
	whole := l.messages[0].Data
	f.Add(whole)
	f.Add(whole[:len(whole)-9])
	f.Add(whole[:3])
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := appendListed(nil, netlink.Message{Data: data})
		if size := 0; err == nil {
			for _, e := range all {
				size += len(e.key) + len(e.data)
			}
			if size > len(data) {
				t.Errorf("%d bytes of elements out of %d", size, len(data))
			}
		}
		if text, err := texts(netlink.Message{Data: data}, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME); err == nil && len(text[0])+len(text[1]) > len(data) {
			t.Errorf("%q out of %d bytes", text, len(data))
		}
	})
}
