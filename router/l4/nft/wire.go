//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// transaction is the messages of one batch, which the kernel carries out as a
// whole or not at all. The library has the expressions, and would ask for an
// answer to each message and for a copy of each rule: with some thousands of
// them the answers no longer fit into the socket, and what became of the batch
// is not known.
type transaction struct {
	messages []netlink.Message
	err      error // the first
}

// errAnswerLost means that a batch was sent, and that it is not known whether
// it was carried out.
var errAnswerLost = errors.New("the kernel's answer was lost")

// send has the kernel carry out the batch.
func (t *transaction) send(c *netlink.Conn) error {
	if t.err != nil || len(t.messages) == 0 {
		return t.err
	}
	last := uint32(len(t.messages)) // in the batch, whose beginning is number 0
	t.messages[last-1].Header.Flags |= netlink.Acknowledge
	if err := write(c, t.encode(c.PID())); err != nil {
		return err
	}
	for {
		answers, err := c.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return errors.Join(errAnswerLost, err)
		}
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Type == netlink.Error && a.Header.Sequence == last {
				return nil // an error would have come before
			}
		}
	}
}

// encode returns the batch as it is sent. Nothing that it says before the last
// message is answered, unless it is refused, so each batch may count from 0.
func (t *transaction) encode(port uint32) []byte {
	all := append([]netlink.Message{batchMark(unix.NFNL_MSG_BATCH_BEGIN)}, t.messages...)
	all = append(all, batchMark(unix.NFNL_MSG_BATCH_END))
	size := 0
	for _, m := range all {
		size += headerSize + len(m.Data)
	}
	b := make([]byte, 0, size)
	for i, m := range all {
		b = binary.NativeEndian.AppendUint32(b, uint32(headerSize+len(m.Data)))
		b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Type))
		b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Flags))
		b = binary.NativeEndian.AppendUint32(b, uint32(i))
		b = binary.NativeEndian.AppendUint32(b, port)
		b = append(b, m.Data...) // of a multiple of four bytes
	}
	return b
}

const headerSize = unix.NLMSG_HDRLEN

// write sends what the connection's own method would copy several times, which for
// a large batch takes longer than its encoding.
func write(c *netlink.Conn, batch []byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		failed = unix.Sendto(int(fd), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return failed != unix.EAGAIN
	})
	return errors.Join(err, failed)
}

func batchMark(kind netlink.HeaderType) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}}
}

// attrs are encoded attributes.
type attrs []byte

func (a attrs) text(kind uint16, s string) attrs {
	a, at := a.open(kind)
	a = append(append(a, s...), 0)
	return a.close(at)
}

// data differs from text in that nothing ends it.
func (a attrs) data(kind uint16, b string) attrs {
	a, at := a.open(kind)
	a = append(a, b...)
	return a.close(at)
}

func (a attrs) number(kind uint16, n uint32) attrs {
	a, at := a.open(kind)
	a = binary.BigEndian.AppendUint32(a, n)
	return a.close(at)
}

// open begins an attribute whose content follows, until close.
func (a attrs) open(kind uint16) (_ attrs, at int) {
	at = len(a)
	return binary.NativeEndian.AppendUint16(append(a, 0, 0), kind), at
}

func (a attrs) nest(kind uint16) (_ attrs, at int) { return a.open(kind | unix.NLA_F_NESTED) }

func (a attrs) close(at int) attrs {
	binary.NativeEndian.PutUint16(a[at:], uint16(len(a)-at))
	for len(a)%4 != 0 {
		a = append(a, 0)
	}
	return a
}

// Kinds of attributes that x/sys does not have.
const (
	setElemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END
	setDescConcat = 2  // NFTA_SET_DESC_CONCAT
	setConcat     = 0x80
)

// add appends a message about something in a table.
func (t *transaction) add(table *nftables.Table, kind int, flags netlink.HeaderFlags, a attrs) {
	t.messages = append(t.messages, question(table, kind, flags, a))
}

// addTable makes a table, or takes the flags of one that is there: it is not
// dormant afterwards.
func (t *transaction) addTable(table *nftables.Table) {
	t.add(table, unix.NFT_MSG_NEWTABLE, netlink.Create, attrs{}.text(unix.NFTA_TABLE_NAME, table.Name).number(unix.NFTA_TABLE_FLAGS, 0))
}

func (t *transaction) deleteTable(table *nftables.Table) {
	t.add(table, unix.NFT_MSG_DELTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, table.Name))
}

func (t *transaction) addChain(table *nftables.Table, c chain) {
	a := attrs{}.text(unix.NFTA_CHAIN_TABLE, table.Name).text(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != nil {
		b, at := a.nest(unix.NFTA_CHAIN_HOOK)
		a = b.number(unix.NFTA_HOOK_HOOKNUM, uint32(*c.hook)).number(unix.NFTA_HOOK_PRIORITY, uint32(c.priority)).close(at)
		a = a.number(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept)).text(unix.NFTA_CHAIN_TYPE, string(nftables.ChainTypeNAT))
	}
	t.add(table, unix.NFT_MSG_NEWCHAIN, netlink.Create, a)
}

func (t *transaction) deleteChain(table *nftables.Table, name string) {
	t.add(table, unix.NFT_MSG_DELCHAIN, 0, attrs{}.text(unix.NFTA_CHAIN_TABLE, table.Name).text(unix.NFTA_CHAIN_NAME, name))
}

// flushChain deletes the rules of a chain.
func (t *transaction) flushChain(table *nftables.Table, name string) {
	t.add(table, unix.NFT_MSG_DELRULE, 0, attrs{}.text(unix.NFTA_RULE_TABLE, table.Name).text(unix.NFTA_RULE_CHAIN, name))
}

// addRule appends a rule to a chain. The stamp comes back when it is read.
func (t *transaction) addRule(table *nftables.Table, chain string, r rule, stamp string) {
	a, at := attrs{}.text(unix.NFTA_RULE_TABLE, table.Name).text(unix.NFTA_RULE_CHAIN, chain).nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range r {
		data, err := expr.Marshal(byte(table.Family), e)
		if err != nil && t.err == nil {
			t.err = fmt.Errorf("chain %s: %w", chain, err)
		}
		a = a.data(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, string(data))
	}
	a = a.close(at).data(unix.NFTA_RULE_USERDATA, stamp)
	t.add(table, unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, a)
}

func (t *transaction) addSet(s *nftables.Set) {
	t.add(s.Table, unix.NFT_MSG_NEWSET, netlink.Create, setAttrs(s))
}

// setAttrs is how the kernel is told of a set.
func setAttrs(s *nftables.Set) attrs {
	flags := uint32(0)
	for flag, on := range map[uint32]bool{unix.NFT_SET_INTERVAL: s.Interval, unix.NFT_SET_MAP: s.IsMap,
		unix.NFT_SET_TIMEOUT: s.HasTimeout, unix.NFT_SET_EVAL: s.Dynamic, setConcat: s.Concatenation} {
		if on {
			flags |= flag
		}
	}
	a := attrs{}.text(unix.NFTA_SET_TABLE, s.Table.Name).text(unix.NFTA_SET_NAME, s.Name).
		number(unix.NFTA_SET_FLAGS, flags).number(unix.NFTA_SET_ID, s.ID).
		number(unix.NFTA_SET_KEY_TYPE, s.KeyType.GetNFTMagic()).number(unix.NFTA_SET_KEY_LEN, s.KeyType.Bytes)
	if s.IsMap {
		kind := s.DataType.GetNFTMagic()
		if s.DataType == nftables.TypeVerdict {
			kind = unix.NFT_DATA_VERDICT
		}
		a = a.number(unix.NFTA_SET_DATA_TYPE, kind).number(unix.NFTA_SET_DATA_LEN, s.DataType.Bytes)
	}
	if s.Size > 0 || s.Concatenation {
		a = appendDescription(a, s)
	}
	if s.HasTimeout {
		a = a.number(unix.NFTA_SET_GC_INTERVAL, uint32(forgetEvery.Milliseconds()))
	}
	if s.Interval { // or nft(8) takes the bytes of addresses the other way round
		a = a.data(unix.NFTA_SET_USERDATA, string(userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, 2)))
	}
	return a
}

// appendDescription says how large a set may be, and of what its keys consist.
func appendDescription(a attrs, s *nftables.Set) attrs {
	a, desc := a.nest(unix.NFTA_SET_DESC)
	if s.Size > 0 {
		a = a.number(unix.NFTA_SET_DESC_SIZE, s.Size)
	}
	if s.Concatenation {
		var parts, part int
		a, parts = a.nest(setDescConcat)
		for _, t := range nftables.ConcatSetTypeElements(s.KeyType) {
			a, part = a.nest(unix.NFTA_LIST_ELEM)
			a = a.number(1, t.Bytes).close(part) // NFTA_SET_FIELD_LEN
		}
		a = a.close(parts)
	}
	return a.close(desc)
}

// flushSet deletes the elements of a set.
func (t *transaction) flushSet(s *nftables.Set) {
	t.add(s.Table, unix.NFT_MSG_DELSETELEM, 0,
		attrs{}.text(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name).text(unix.NFTA_SET_ELEM_LIST_SET, s.Name))
}

// elements are messages about elements of a set. They are encoded as they are
// appended: half a million of endpoints is no unusual number.
type elements struct {
	set      *nftables.Set
	kind     int
	flags    netlink.HeaderFlags
	messages []netlink.Message // finished
	current  attrs             // the one that is being filled; empty: none is
	list, n  int               // where its list begins, and how many are in it
}

func additions(s *nftables.Set) elements {
	return elements{set: s, kind: unix.NFT_MSG_NEWSETELEM, flags: netlink.Create}
}

func removals(s *nftables.Set) elements {
	return elements{set: s, kind: unix.NFT_MSG_DELSETELEM}
}

// chunk is how many elements a message holds: the list of them must stay
// below 64 kB, and none of ours is larger than 120 bytes.
const chunk = 400

func (l *elements) append(e element) {
	if l.n == chunk {
		l.finish()
	}
	if l.n == 0 {
		a := make(attrs, 0, l.room()).text(unix.NFTA_SET_ELEM_LIST_TABLE, l.set.Table.Name).text(unix.NFTA_SET_ELEM_LIST_SET, l.set.Name)
		l.current, l.list = a.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	}
	l.current = e.appendTo(l.current)
	l.n++
}

// room is enough for a message: after a full one, for another such.
func (l *elements) room() int {
	if k := len(l.messages); k > 0 {
		return len(l.messages[k-1].Data) + len(l.messages[k-1].Data)/8
	}
	return 256
}

// finish ends the message that is being filled.
func (l *elements) finish() {
	if l.n > 0 {
		l.messages = append(l.messages, question(l.set.Table, l.kind, l.flags, l.current.close(l.list)))
		l.current, l.n = nil, 0
	}
}

// put appends messages about elements.
func (t *transaction) put(l elements) {
	l.finish()
	t.messages = append(t.messages, l.messages...)
}

// addElements appends elements that do not go through a batch.
func (t *transaction) addElements(s *nftables.Set, all []element) {
	l := additions(s)
	for _, e := range all {
		l.append(e)
	}
	t.put(l)
}
