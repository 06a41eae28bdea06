//go:build linux && root

package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
	"github.com/portico-ingress/portico/test/netns"
	testrig "github.com/portico-ingress/portico/test/rig"
)

// rig is a node with its neighbours, of which a test uses one family.
type rig struct {
	*testrig.Rig
	node, pods, outside *netns.Namespace
	ipv6                bool
	sctp                map[netip.AddrPort]bool // addresses where it is served
}

const nodeToOutside, podsToNode = testrig.NodeToOutside, testrig.PodsToNode

func newRig(t testing.TB, ipv6 bool) *rig {
	t.Helper()
	r := testrig.New(t)
	return &rig{Rig: r, node: r.Node, pods: r.Pods, outside: r.Outside, ipv6: ipv6, sctp: map[netip.AddrPort]bool{}}
}

// addr carries an address of the rig to its family.
func (r *rig) addr(text string) netip.Addr {
	a := netip.MustParseAddr(text)
	if r.ipv6 {
		return testrig.V6(a)
	}
	return a
}

func (r *rig) own(t testing.TB, n *netns.Namespace, a netip.Addr) { t.Helper(); r.Own(t, n, a) }

// serve answers at an address with the address itself and the client's.
func (r *rig) serve(t testing.TB, n *netns.Namespace, p l4.Protocol, a netip.AddrPort) {
	t.Helper()
	if p != l4.SCTP {
		r.Serve(t, n, p, a)
		return
	}
	if r.sctp[a] {
		return
	}
	r.sctp[a] = true
	var err error
	n.Do(func() { err = serveSCTP(t, a) })
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) serves(p l4.Protocol, a netip.AddrPort) bool {
	return r.Serves(p, a) || p == l4.SCTP && r.sctp[a]
}

// Patience: a refusal or an answer is waited for as long as a slow machine may
// need; silence can only be believed.
const (
	patience = 20 * time.Second
	silence  = 500 * time.Millisecond
)

// send opens one connection and says what became of it, in the words of
// l4.Outcome. quiet says that no answer is expected.
func (r *rig) send(from l4.Origin, k l4.Packet, quiet bool) string {
	if k.Protocol == l4.SCTP {
		return r.sendSCTP(from, k, quiet)
	}
	got, err := r.Send(from, testrig.Probe{Protocol: k.Protocol, Source: k.Source, Destination: k.Destination, Quiet: quiet})
	if err != nil {
		return "error: " + err.Error()
	}
	return got[0]
}

func (r *rig) sendSCTP(from l4.Origin, k l4.Packet, quiet bool) string {
	wait := patience
	if quiet {
		wait = silence
	}
	var answer string
	var err error
	r.Namespace(from).Do(func() { answer, err = exchangeSCTP(k, wait) })
	switch {
	case errors.Is(err, syscall.EPERM) && quiet: // what the node itself may not send
		return l4.Dropped.String()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPERM):
		return l4.Rejected.String()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return l4.Dropped.String()
	case err != nil:
		return "error: " + err.Error()
	}
	server, client, _ := strings.Cut(answer, " ")
	if server == k.Destination.String() && client == k.Source.String() {
		return l4.Pass.String()
	}
	if client != k.Source.String() {
		server += " masqueraded"
	}
	return server
}

// furnish gives the rig the addresses and servers of a case. Whatever a flow may
// reach if nothing were programmed answers as well, so that what is refused or
// dropped cannot be taken for what nobody has: every address of the node, also
// the loopback ones.
func (r *rig) furnish(t testing.TB, c *flows.Case) {
	t.Helper()
	for _, a := range c.Addresses {
		r.own(t, r.node, a)
	}
	for _, s := range c.Services {
		for _, p := range s.Ports {
			for _, g := range p.Groups {
				for _, e := range g.Endpoints {
					r.own(t, r.pods, e.Address.Addr())
					r.serve(t, r.pods, p.Protocol, e.Address)
				}
			}
		}
	}
	for _, f := range c.Flows {
		r.own(t, r.Namespace(f.From), f.Packet.Source)
		dst := f.Packet.Destination
		ofNode := f.Packet.DestinationLocal || dst.Addr().IsLoopback()
		switch {
		case r.serves(f.Packet.Protocol, dst):
		case ofNode:
			r.serve(t, r.node, f.Packet.Protocol, dst)
		case f.Action == l4.Pass:
			r.own(t, r.outside, dst.Addr())
			r.serve(t, r.outside, f.Packet.Protocol, dst)
		}
	}
}

// try sends connections of a flow until all its endpoints have answered.
func (r *rig) try(f flows.Flow) error {
	if f.Action != l4.Forward {
		if got := r.send(f.From, f.Packet, f.Action == l4.Dropped); got != f.Want {
			return fmt.Errorf("got %q, want %q", got, f.Want)
		}
		return nil
	}
	missing := map[string]bool{}
	for _, c := range f.Endpoints {
		o := l4.Outcome{Action: l4.Forward, Endpoints: []l4.Candidate{c}}
		missing[o.String()] = true
	}
	all := fmt.Sprint(f.Want)
	for tries := 0; len(missing) > 0; tries++ {
		got := r.send(f.From, f.Packet, false)
		if !slices.Contains(strings.Split(all, ", "), got) {
			return fmt.Errorf("got %q, want one of %q", got, f.Want)
		}
		delete(missing, got)
		if tries == 100*len(f.Endpoints) {
			return fmt.Errorf("%v of %q never answered", missing, f.Want)
		}
	}
	return nil
}
