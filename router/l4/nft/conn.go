//go:build linux

package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
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
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(bufferSize), c.SetReadBuffer(bufferSize/16), k.watcher.ignore(c.PID()))
	}))
	if err != nil {
		return errors.Join(fmt.Errorf("netlink: %w; the capability NET_ADMIN is needed", err), query.Close())
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
	err := errors.Join(k.conn.CloseLasting(), k.query.Close())
	k.conn, k.query, k.whole = nil, nil, false
	return err
}

// flush commits what was handed to the connection.
func (k *Kernel) flush() error {
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// rules calls do with the chain of each rule of a table and with what the rule
// does, in the kernel's form. A table that is not there has none.
func (k *Kernel) rules(f *family, do func(chain string, exprs []byte)) error {
	replies, err := k.ask(f, unix.NFT_MSG_GETRULE, netlink.Dump, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: cString(f.table.Name)})
	if err != nil {
		return err
	}
	for _, m := range replies {
		ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		var chain string
		var exprs []byte
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				exprs = ad.Bytes()
			}
		}
		do(chain, exprs)
	}
	return nil
}

func (k *Kernel) hasChain(f *family, name string) (bool, error) {
	_, err := k.ask(f, unix.NFT_MSG_GETCHAIN, 0,
		netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: cString(f.table.Name)},
		netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: cString(name)})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// names lists the chains or sets of a table.
func (k *Kernel) names(f *family, request, name uint16) ([]string, error) {
	const table = 1 // the attribute, of all kinds of objects
	replies, err := k.ask(f, request, netlink.Dump, netlink.Attribute{Type: table, Data: cString(f.table.Name)})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range replies {
		ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
		if err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		var in, called string
		for ad.Next() {
			switch ad.Type() {
			case table:
				in = ad.String()
			case name:
				called = ad.String()
			}
		}
		if in == f.table.Name {
			out = append(out, called)
		}
	}
	return out, nil
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
