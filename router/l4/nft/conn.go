//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// bufferSize is how large a transaction may be: it is one message to the
// kernel. A million endpoints are 100 MB.
const bufferSize = 512 << 20

// answerBuffer holds an error for each of the messages of a large transaction.
const answerBuffer = 4 << 20

// dialQuery opens a connection for questions. The kernel fills as much of an answer
// as the buffer of the first question takes, and begins anew with each: so a
// large one makes the reading of large sets bearable.
func dialQuery() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: queryBuffer})
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return c, nil
}

// queryBuffer is the most that the kernel fills.
const queryBuffer = 32 << 10

// connect opens lasting connections: to close one waits for a grace period of
// the kernel.
func (k *Kernel) connect() error {
	if k.conn != nil {
		return nil
	}
	query, err := dialQuery()
	if err != nil {
		return err
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return errors.Join(fmt.Errorf("netlink: %w", err), query.Close())
	}
	// An error would come with the message that it is about, of up to 64 kB.
	brief := c.SetOption(netlink.CapAcknowledge, true)
	if err := errors.Join(c.SetWriteBuffer(bufferSize), c.SetReadBuffer(answerBuffer), brief, k.watcher.ignore(c.PID())); err != nil {
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
	out := map[string][]string{}
	rules, err := ask(k.query, question(f.table, unix.NFT_MSG_GETRULE, netlink.Dump, attrs{}.text(unix.NFTA_RULE_TABLE, f.table.Name)))
	if err != nil {
		return nil, err
	}
	for _, m := range rules {
		text, err := texts(m, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_USERDATA)
		if err != nil {
			return nil, err
		}
		chain := strings.TrimRight(text[0], "\x00")
		out[chain] = append(out[chain], text[1])
	}
	return out, nil
}

// generation returns the number of the last transaction of anybody.
func (k *Kernel) generation() (uint32, error) {
	n, err := k.number(question(&nftables.Table{}, unix.NFT_MSG_GETGEN, 0, nil), unix.NFTA_GEN_ID)
	return n, err
}

// parts returns how many chains and sets a table has; 0: there is no table. To list
// the chains would be to list those of everybody's tables.
func (k *Kernel) parts(f *family) (int, error) {
	n, err := k.number(question(f.table, unix.NFT_MSG_GETTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, f.table.Name)), unix.NFTA_TABLE_USE)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return int(n), err
}

// number asks for a number.
func (k *Kernel) number(question netlink.Message, attribute uint16) (uint32, error) {
	replies, err := ask(k.query, question)
	if err != nil {
		return 0, err
	}
	for _, m := range replies {
		text, err := texts(m, attribute, unix.NFTA_CHAIN_UNSPEC)
		if err == nil && len(text[0]) == 4 {
			return binary.BigEndian.Uint32([]byte(text[0])), nil
		}
	}
	return 0, errors.New("nftables: an answer without the number that was asked for")
}

// texts returns two attributes of what the kernel lists.
func texts(m netlink.Message, first, second uint16) (out [2]string, err error) {
	ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
	if err != nil {
		return out, fmt.Errorf("netlink: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case first:
			out[0] = string(ad.Bytes())
		case second:
			out[1] = string(ad.Bytes())
		}
	}
	return out, ad.Err()
}

// errOvertaken means that somebody changed something each time.
var errOvertaken = errors.New("nftables: changed each time that it was read")

// question asks for something of the family of a table.
func question(t *nftables.Table, kind int, flags netlink.HeaderFlags, a attrs) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, a...),
	}
}

// ask sends a question and returns the answers. A dump that was overtaken by a
// change is asked for again.
func ask(c *netlink.Conn, question netlink.Message) ([]netlink.Message, error) {
	for tries := 0; ; tries++ {
		replies, err := c.Execute(question)
		interrupted := errors.Is(err, unix.EINTR)
		for _, r := range replies {
			interrupted = interrupted || r.Header.Flags&netlink.DumpInterrupted != 0
		}
		if interrupted && tries < 10 {
			continue
		}
		if interrupted {
			return nil, errOvertaken
		}
		if err != nil {
			return nil, fmt.Errorf("nftables: %w", err)
		}
		return replies, nil
	}
}
