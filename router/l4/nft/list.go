//go:build linux

package nft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
)

// Affinity returns a function that lists the clients of a port that keep their
// endpoint, as the kernel remembers them. Those whose endpoint is gone are left
// out. The function may run anywhere and beside everything else; it goes through
// the clients of all Services, which takes a time that grows with the square of
// their number.
func (k *Kernel) Affinity(key l4.PortKey) (func(context.Context) ([]l4.Sticky, error), error) {
	if !k.whole {
		return nil, ErrNeedsReplace
	}
	for _, f := range k.families {
		pools := f.affinities(key)
		if len(pools) == 0 {
			continue
		}
		seats := map[value]netip.AddrPort{}
		for _, s := range pools {
			for a, n := range s.seats {
				seats[s.value(n)] = a
			}
		}
		question, size := elementsOf(f.sets.stickyClients), int(f.addressType().Bytes)
		query, err := dialQuery() // here, since it belongs to the namespace of who opens it
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) ([]l4.Sticky, error) { return clients(ctx, query, question, size, seats) }, nil
	}
	return func(context.Context) ([]l4.Sticky, error) { return nil, nil }, nil
}

// clients asks who is remembered, and closes the connection.
func clients(ctx context.Context, c *netlink.Conn, question netlink.Message, size int, seats map[value]netip.AddrPort) ([]l4.Sticky, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	elements, err := list(c, question)
	stop()
	if err := errors.Join(ctx.Err(), err, c.Close()); err != nil {
		return nil, err
	}
	var out []l4.Sticky
	for _, e := range elements {
		endpoint, ok := seats[valueOf(e.data)]
		if !ok || len(e.key) < size {
			continue
		}
		client, _ := netip.AddrFromSlice([]byte(e.key[:size]))
		out = append(out, l4.Sticky{Client: client, Endpoint: endpoint, Expires: e.expires})
	}
	slices.SortFunc(out, func(a, b l4.Sticky) int {
		return cmp.Or(a.Client.Compare(b.Client), a.Endpoint.Compare(b.Endpoint))
	})
	return out, nil
}

// listed is an element as the kernel lists it.
type listed struct {
	key, data string
	expires   time.Duration
}

// elementsOf asks for those of a set. The kernel takes a time that grows with the
// square of their number.
func elementsOf(s *nftables.Set) netlink.Message {
	return question(s.Table, unix.NFT_MSG_GETSETELEM, netlink.Dump, attrs{}.
		text(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name).
		text(unix.NFTA_SET_ELEM_LIST_SET, s.Name))
}

// list asks for elements.
func list(c *netlink.Conn, question netlink.Message) ([]listed, error) {
	replies, err := ask(c, question)
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
