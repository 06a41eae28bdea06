//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// watcher listens to what is changed in the kernel's nftables by others.
type watcher struct {
	// const after newWatcher
	table     string
	conn      *netlink.Conn
	disturbed chan struct{}

	mu       sync.Mutex // protects the following
	watching bool       // Watch was called
	paused   bool
}

const (
	// watchBuffer holds what the kernel tells of a transaction.
	watchBuffer = 4 << 20
	// overflowed is how long after an overflow nothing that is told matters.
	overflowed = 100 * time.Millisecond
)

func newWatcher(table string) (*watcher, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// Without room for a whole table of rules, a flush of one is told in part.
	if err := c.SetReadBuffer(watchBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), c.Close())
	}
	return &watcher{table: table, conn: c, disturbed: make(chan struct{}, 1)}, nil
}

func (w *watcher) close() error { return w.conn.Close() }

// ignore has the kernel leave out what comes from our own connection, whose
// transactions may be large: all messages of one transaction come from one
// connection, and the first word of them says from which.
func (w *watcher) ignore(port uint32) error {
	const portOffset = 12 // in the netlink header
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: portOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: asLoaded(port), SkipTrue: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	return w.conn.SetBPF(filter)
}

// asLoaded returns a number of the machine's byte order as a filter loads it.
func asLoaded(n uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, n))
}

// Disturbed receives when somebody else has changed our tables, or may have.
func (k *Kernel) Disturbed() <-chan struct{} { return k.watcher.disturbed }

// Watch listens for changes of our tables by others until ctx is done. It may
// run beside everything else but Close.
func (k *Kernel) Watch(ctx context.Context) error {
	w := k.watcher
	if err := w.set(&w.watching, true); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ours := false // the transaction that is being told of changes our tables
	for {
		messages, err := w.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // some were lost
			w.discard()
			if ours = false; ctx.Err() != nil {
				return nil
			}
			w.disturb()
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("netlink: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != transactionEnd {
				ours = ours || w.concerns(m)
				continue
			}
			// Not before: a repair in the middle of what is told would be
			// followed by another.
			if ours {
				w.disturb()
			}
			ours = false
		}
	}
}

// pause stops the listening, and resume goes on with it. While anybody listens, the
// kernel makes a message of 4 kB for each element of a transaction and keeps them
// all until its end: 2 GB for half a million of endpoints, although those who listen
// want none of them.
func (w *watcher) pause() error  { return w.set(&w.paused, true) }
func (w *watcher) resume() error { return w.set(&w.paused, false) }

// set changes one of the conditions of listening, and listens if all are met.
func (w *watcher) set(condition *bool, to bool) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.watching && !w.paused
	*condition = to
	switch after := w.watching && !w.paused; {
	case after && !before:
		err = w.conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	case before && !after:
		err = w.conn.LeaveGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	return nil
}

// discard takes what is left of transactions that were told in part, among them
// perhaps their end. The repair that follows is about all of them.
func (w *watcher) discard() {
	_ = w.conn.SetReadDeadline(time.Now().Add(overflowed))
	for {
		if _, err := w.conn.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			break
		}
	}
	_ = w.conn.SetReadDeadline(time.Time{}) // the caller looks whether the end of its context came before
}

func (w *watcher) disturb() {
	select {
	case w.disturbed <- struct{}{}:
	default:
	}
}

// transactionEnd is the last message about a transaction.
const transactionEnd = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// concerns reports whether a message tells of our tables. All of those that
// tell of something in a table have its name in the same attribute.
func (w *watcher) concerns(m netlink.Message) bool {
	if len(m.Data) < 4 {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			return ad.String() == w.table
		}
	}
	return false
}
