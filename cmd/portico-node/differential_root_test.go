//go:build linux && root

package main

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
)

// found are histories in which portico-node, the model or this test was once
// wrong.
var found = []history{
	{100, 10, "a pod that is its own client, on this node for one Service and elsewhere for another: no cluster has such"},
}

// history is a random cluster, changed again and again.
type history struct {
	seed  uint64
	cases int
	what  string // it has found; empty: nothing yet
}

const casesInHistory = 25

// TestKubeProxyAgreesAtRandom: the real kube-proxy and portico-node, each on a
// node of its own, follow the same random Services and EndpointSlices. After each
// change, which is a case, everything that it touches is tried from everywhere
// on both nodes: all endpoints that may be reached must be, and no others, with
// the same source; who is refused by one must be by the other, and who gets no
// answer as well. What both must do, the model says.
//
// PORTICO_DIFFERENTIAL_CASES is how many cases are tried beside those that once
// found something, and PORTICO_DIFFERENTIAL_SEED where they begin; a failure
// names its seed.
func TestKubeProxyAgreesAtRandom(t *testing.T) {
	cases, first := number(t, "PORTICO_DIFFERENTIAL_CASES", 4*casesInHistory), number(t, "PORTICO_DIFFERENTIAL_SEED", 1)
	all := found
	for i := 0; i < cases; i += casesInHistory {
		all = append(all, history{seed: uint64(first + i/casesInHistory), cases: casesInHistory})
	}
	for _, h := range all {
		t.Run(fmt.Sprintf("seed=%d", h.seed), func(t *testing.T) {
			t.Parallel()
			d := newDifferential(t, h.seed)
			for n := range h.cases {
				if d.step(n); t.Failed() {
					break
				}
			}
			if h.what != "" {
				t.Log("it once found: " + h.what)
			}
			t.Logf("%d cases, %d flows, %d connections and datagrams", d.cases, d.flows, d.ours.sent.Load()+d.peer.sent.Load())
		})
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(variable), strconv.Itoa(otherwise)))
	if err != nil || n < 0 {
		t.Fatalf("%s: %q is not a number", variable, os.Getenv(variable))
	}
	return n
}

// differs reports why the two may differ at a flow; empty: they may not. These
// are the places where we mean to do something else.
func differs(f flow) string {
	if f.unclaimed {
		return "kube-proxy that learns of a ServiceCIDR late drops what is for it only after its next full sync, up to an hour later"
	}
	return ""
}

// step changes the cluster and compares.
func (d *differential) step(n int) {
	before := d.plan
	for range 20 { // many change nothing that can be seen
		if d.change(); len(d.touched(before)) > 0 {
			break
		}
	}
	d.round++
	d.both(func(s *side) error {
		if n%10 == 9 && s == d.ours {
			s.restart()
		}
		s.api.Update(d, d.objects())
		return s.caughtUp(d)
	})
	if n%5 == 4 {
		before = &l4.Plan{} // also what did not change
	}
	all := d.flowsTo(d.touched(before))
	d.cases, d.flows = d.cases+1, d.flows+len(all)
	var ours, peers []string
	d.both(func(s *side) (err error) {
		got := &ours
		if s == d.peer {
			got = &peers
		}
		*got, err = s.explore(all)
		return err
	})
	if d.Failed() {
		return
	}
	for i, f := range all {
		why := differs(f)
		if ours[i] != f.outcome() || peers[i] != f.outcome() && why == "" {
			d.Errorf("case %d: %s\nthe model:    %s\nportico-node: %s\nkube-proxy:   %s", n, f, f.outcome(), ours[i], peers[i])
		}
	}
	if d.Failed() {
		d.Logf("the Services:\n%s", strings.Join(d.describe(), "\n"))
	}
}

// flow is what one kind of client does at one address.
type flow struct {
	client   client
	packet   l4.Packet // the source is one of the client's
	action   l4.Action
	want     []string // outcomes that must be seen, and no others; sorted
	affinity bool
	// unclaimed is an address in a range of ClusterIPs that no Service has.
	unclaimed bool
}

func (f flow) String() string {
	return fmt.Sprintf("%s to %s/%s", f.client.name, f.packet.Destination, f.packet.Protocol)
}

// outcome is what must be seen.
func (f flow) outcome() string { return strings.Join(f.want, ", ") }

// some reports whether not all outcomes have to be seen: a client that keeps its
// endpoint sees no other.
func (f flow) some() bool { return f.affinity && f.client.fixed && len(f.want) > 1 }
