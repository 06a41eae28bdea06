//go:build linux

package nft

import (
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

// stamps returns the chains of a table with the stamps of their rules, in their
// order. A table that is not there has none. Where others change nftables all the
// time, chains without rules may be missing: the kernel lists those of all tables.
func (k *Kernel) stamps(f *family) (map[string][]string, error) {
	out := map[string][]string{}
	chains, err := ask(k.query, question(f.table, unix.NFT_MSG_GETCHAIN, netlink.Dump, nil))
	if err != nil && !errors.Is(err, errOvertaken) {
		return nil, err
	}
	for _, m := range chains {
		text, err := texts(m, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME)
		if err != nil {
			return nil, err
		}
		if named(text[0]) == f.table.Name {
			out[named(text[1])] = nil
		}
	}
	rules, err := ask(k.query, question(f.table, unix.NFT_MSG_GETRULE, netlink.Dump, attrs{}.text(unix.NFTA_RULE_TABLE, f.table.Name)))
	if err != nil {
		return nil, err
	}
	for _, m := range rules {
		text, err := texts(m, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_USERDATA)
		if err != nil {
			return nil, err
		}
		chain := named(text[0])
		out[chain] = append(out[chain], text[1])
	}
	return out, nil
}

// generation returns the number of the last transaction of anybody, as the kernel
// writes it; empty after an error, which has everything programmed again in any case.
func (k *Kernel) generation() string {
	if k.query == nil {
		return ""
	}
	replies, err := ask(k.query, question(&nftables.Table{}, unix.NFT_MSG_GETGEN, 0, nil))
	if err != nil || len(replies) == 0 {
		return ""
	}
	text, _ := texts(replies[0], unix.NFTA_GEN_ID, unix.NFTA_GEN_UNSPEC)
	return text[0]
}

// named is a name as the kernel writes it.
func named(s string) string { return strings.TrimRight(s, "\x00") }

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
