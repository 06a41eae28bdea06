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
