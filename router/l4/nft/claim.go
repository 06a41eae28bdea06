//go:build linux

package nft

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableOwner is NFT_TABLE_F_OWNER, which x/sys does not have.
const tableOwner = 2

// ErrClaimed means that another process has claimed the network namespace.
var ErrClaimed = errors.New("another process programs this network namespace")

// Claim makes this process the one that programs the network namespace, until
// release is called or the process ends, however it ends. Two would take each other's
// rules for damage and repair them for ever. The claim is an empty table that belongs
// to a connection (NFT_TABLE_F_OWNER, Linux 5.12): nobody can take it who could not
// change the rules themselves, and no other can delete it.
func Claim(o Options) (release func() error, err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	t := &transaction{}
	table := &nftables.Table{Name: cmp.Or(o.TableName, defaultTable) + "-claim", Family: nftables.TableFamilyIPv4}
	t.add(table, unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl,
		attrs{}.text(unix.NFTA_TABLE_NAME, table.Name).number(unix.NFTA_TABLE_FLAGS, tableOwner))
	err = t.send(c)
	if err == nil {
		return c.Close, nil
	}
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM) && claimed(c, table) {
		err = ErrClaimed
	}
	return nil, errors.Join(fmt.Errorf("claiming the network namespace: %w", err), c.Close())
}

// claimed reports whether a table is there.
func claimed(c *netlink.Conn, table *nftables.Table) bool {
	_, err := ask(c, question(table, unix.NFT_MSG_GETTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, table.Name)))
	return err == nil
}
