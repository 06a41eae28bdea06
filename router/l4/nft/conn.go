//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// bufferSize is how large a transaction may be: it is one message to the
// kernel. A million endpoints are 100 MB.
const bufferSize = 512 << 20

// connect opens lasting connections: to close one waits for a grace period of
// the kernel.
func (k *Kernel) connect() error {
	if k.conn != nil {
		return nil
	}
	query, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return errors.Join(fmt.Errorf("netlink: %w", err), query.Close())
	}
	if err := errors.Join(c.SetWriteBuffer(bufferSize), k.watcher.ignore(c.PID())); err != nil {
		return errors.Join(fmt.Errorf("netlink: %w; the capability NET_ADMIN is needed", err), query.Close(), c.Close())
	}
	k.conn, k.query = c, query
	return nil
}

// Close ends the connections. What is programmed stays.
func (k *Kernel) Close() error { return errors.Join(k.disconnect(), k.watcher.close()) }

func (k *Kernel) disconnect() error {
	if k.conn == nil {
		return nil
	}
	err := errors.Join(k.conn.Close(), k.query.Close())
	k.conn, k.query, k.whole = nil, nil, false
	return err
}

// stamps returns the stamps of the rules of a table by chain, in their order. A
// table that is not there has none.
func (k *Kernel) stamps(f *family) (map[string][]string, error) {
	replies, err := k.ask(f, unix.NFT_MSG_GETRULE, netlink.Dump, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: cString(f.table.Name)})
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, m := range replies {
		ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
		if err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		var chain, stamp string
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_USERDATA:
				stamp = string(ad.Bytes())
			}
		}
		out[chain] = append(out[chain], stamp)
	}
	return out, nil
}

// listed is an element as the kernel lists it.
type listed struct {
	key, data string
	expires   time.Duration
}

// elements lists those of a set. It takes a time that grows with the square of
// their number.
func (k *Kernel) elements(f *family, s *nftables.Set) ([]listed, error) {
	replies, err := k.ask(f, unix.NFT_MSG_GETSETELEM, netlink.Dump,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: cString(f.table.Name)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: cString(s.Name)})
	if err != nil {
		return nil, err
	}
	var out []listed
	for _, m := range replies {
		if out, err = appendListed(out, m); err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
	}
	return out, nil
}

// decode reads a client, by the endpoint of its seat if that is among seats.
func (f *family) decode(e listed, seats map[value]netip.AddrPort) (l4.Sticky, bool) {
	size := f.addressType().Bytes
	if len(e.key) < int(size) {
		return l4.Sticky{}, false
	}
	client, _ := netip.AddrFromSlice([]byte(e.key[:size]))
	endpoint, ok := seats[valueOf(e.data)]
	return l4.Sticky{Client: client, Endpoint: endpoint, Expires: e.expires}, ok
}

// valueOf is a number as word makes it, 0 of anything else.
func valueOf(data string) value {
	if len(data) != 4 {
		return 0
	}
	return value(binary.NativeEndian.Uint32([]byte(data)))
}

func appendListed(out []listed, m netlink.Message) ([]listed, error) {
	ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		ad.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				var e listed
				list.Nested(e.decode)
				out = append(out, e)
			}
			return list.Err()
		})
	}
	return out, ad.Err()
}

func (e *listed) decode(ad *netlink.AttributeDecoder) error {
	value := func(to *string) {
		ad.Nested(func(v *netlink.AttributeDecoder) error {
			for v.Next() {
				if v.Type() == unix.NFTA_DATA_VALUE {
					*to = string(v.Bytes())
				}
			}
			return v.Err()
		})
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			value(&e.key)
		case unix.NFTA_SET_ELEM_DATA:
			value(&e.data)
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.expires = time.Duration(ad.Uint64()) * time.Millisecond
		}
	}
	return ad.Err()
}

// ask sends a request and returns the answers. A dump that was overtaken by a
// change is asked for again.
func (k *Kernel) ask(f *family, request uint16, flags netlink.HeaderFlags, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	m := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | request), Flags: netlink.Request | flags},
		Data:   append([]byte{byte(f.table.Family), unix.NFNETLINK_V0, 0, 0}, data...),
	}
	for tries := 0; ; tries++ {
		replies, err := k.query.Execute(m)
		interrupted := errors.Is(err, unix.EINTR)
		for _, r := range replies {
			interrupted = interrupted || r.Header.Flags&netlink.DumpInterrupted != 0
		}
		if interrupted && tries < 10 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("nftables: %w", err)
		}
		return replies, nil
	}
}

func cString(s string) []byte { return append([]byte(s), 0) }
