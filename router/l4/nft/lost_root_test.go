//go:build linux && root

package nft

import (
	"context"
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/netns"
)

// clog leaves so many answers unread on a connection that no other fits.
func clog(t *testing.T, k *Kernel) {
	t.Helper()
	if err := k.conn.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		ask := netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request}, Data: make([]byte, 4)}
		if _, err := k.conn.Send(ask); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLostAnswer: whether a Replace was carried out is seen in the kernel, not
// in whether its answer arrived.
func TestLostAnswer(t *testing.T) {
	ns := netns.New(t)
	ns.Do(func() {
		k, err := Open(Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer k.Close()
		p := l4.NewPlanner(l4.Node{Name: "node1"}).Plan()
		clog(t, k)
		if err := k.Replace(context.Background(), p); err != nil {
			t.Errorf("it was carried out, and said: %v", err)
		}
		if !k.whole {
			t.Error("after that Apply is refused")
		}
		for _, f := range k.families {
			f.round++
		}
		if k.carriedOut(&p.Globals) {
			t.Error("another Replace's rules are taken for this one's")
		}
		clog(t, k)
		err = k.transact(context.Background(), func(_ *batch, t *transaction) error {
			t.deleteChain(k.families[0].table, "that-is-not-there")
			return nil
		})
		if !errors.Is(err, errAnswerLost) || k.whole {
			t.Errorf("a transaction whose answer is lost: %v, whole %t", err, k.whole)
		}
	})
}

// TestUnheard: while everything is programmed nobody listens, and what others did
// to our tables meanwhile is told afterwards; what they did to their own is not.
func TestUnheard(t *testing.T) {
	ns := netns.New(t)
	ns.Run(t, "nft", "add table ip foreign")
	var k *Kernel
	var err error
	ns.Do(func() { k, err = Open(Options{}) })
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- k.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	}()
	p := l4.NewPlanner(l4.Node{Name: "node1"}).Plan()
	for _, test := range []struct {
		command    string
		everything bool
		disturbed  bool
	}{
		{"add chain ip foreign a", true, false},
		{"add chain ip foreign b", false, true}, // who knows
		{"flush chain ip portico-node decide", true, true},
		{"add chain ip portico-node theirs", true, true},
		{"delete table ip portico-node", true, true},
	} {
		if err := k.Replace(ctx, p); err != nil {
			t.Fatal(err)
		}
		select {
		case <-k.Disturbed():
			t.Errorf("before %q: disturbed by nobody", test.command)
		default:
		}
		err := k.unheard(test.everything, func() error {
			err := k.fill(ctx, p, false)
			if listens(t, k.watcher) {
				t.Errorf("%q: somebody listens", test.command)
			}
			ns.Run(t, "nft", test.command)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		disturbed := false
		select {
		case <-k.Disturbed():
			disturbed = true
		default:
		}
		if disturbed != test.disturbed {
			t.Errorf("%q: disturbed %t, want %t", test.command, disturbed, test.disturbed)
		}
	}
	if !listens(t, k.watcher) {
		t.Error("nobody listens afterwards")
	}
}

// listens reports whether the kernel tells a watcher of changes.
func listens(t *testing.T, w *watcher) bool {
	t.Helper()
	raw, err := w.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var groups int
	var failed error
	err = raw.Control(func(fd uintptr) {
		groups, failed = unix.GetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_LIST_MEMBERSHIPS)
	})
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return groups&(1<<(unix.NFNLGRP_NFTABLES-1)) != 0
}

// TestRefused: the error of a message in the middle is that of the transaction,
// of which nothing is carried out; so it is if there are thousands of errors.
func TestRefused(t *testing.T) {
	ns := netns.New(t)
	ns.Do(func() {
		k, err := Open(Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer k.Close()
		err = k.transact(context.Background(), func(_ *batch, t *transaction) error {
			f := k.families[0]
			t.addTable(f.table)
			for range 3000 {
				t.deleteChain(f.table, "that-is-not-there")
			}
			t.addChain(f.table, chain{name: "another"})
			return nil
		})
		if !errors.Is(err, unix.ENOENT) {
			t.Errorf("got %v, want ENOENT", err)
		}
		if err := k.connect(); err != nil { // after an error it is not
			t.Error(err)
			return
		}
		if there, err := k.Present(); there || err != nil {
			t.Errorf("present %t, %v", there, err)
		}
	})
}
