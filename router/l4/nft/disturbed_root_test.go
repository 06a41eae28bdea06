//go:build linux && root

package nft_test

import (
	"context"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/netns"
)

// TestDisturbed: what others do to our tables is noticed and repaired; what
// they do to their own is not our business, and we leave it alone.
func TestDisturbed(t *testing.T) {
	ns := netns.New(t)
	ns.Run(t, "nft", "add table ip foreign; add chain ip foreign c { type filter hook input priority 0; }; add rule ip foreign c tcp dport 1 counter drop; add set ip foreign s { type ipv4_addr; elements = { 192.0.2.1 } ; }")
	foreign := func() string { return ns.Run(t, "nft", "list", "table", "ip", "foreign") }
	before := foreign()
	k := open(t, ns)
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- k.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	}()
	p, _ := sample(false)
	k.replace(t, p.Plan())
	ours := func() string { return ns.Run(t, "nft", "list", "table", "ip", "portico-node") }
	want := ours()
	for name, command := range map[string]string{
		"the table":      "delete table ip portico-node",
		"everything":     "flush table ip portico-node",
		"an element":     "delete element ip portico-node fronts { 172.30.0.11 . tcp . 80 }",
		"another's rule": "add rule ip portico-node services tcp dport 80 drop",
		"a fixed rule":   "flush chain ip portico-node decide",
		"a whole map":    "delete map ip portico-node sticky-names",
		"an action":      "flush map ip portico-node actions",
		"sleep":          "add table ip portico-node { flags dormant; }",
		"a policy":       "add chain ip portico-node prerouting { policy drop; }",
		"another's hook": "add chain ip portico-node theirs { type filter hook forward priority 0; policy drop; }",
		"another's name": "add chain ip portico-node theirs",
	} {
		// Changes of another's table are not worth a notice; whatever came
		// before it has been taken.
		ns.Run(t, "nft", "add element ip foreign s { 192.0.2.7 }")
		ns.Run(t, "nft", "delete element ip foreign s { 192.0.2.7 }")
		select {
		case <-k.Disturbed():
			t.Errorf("before %s: disturbed by nobody", name)
		default:
		}
		ns.Run(t, "nft", command)
		select {
		case <-k.Disturbed():
		case <-time.After(patience):
			t.Fatalf("%s: not noticed", name)
		}
		k.replace(t, p.Plan())
		if got := ours(); got != want {
			t.Errorf("%s: not repaired: %s", name, firstDifference(want, got))
		}
	}
	if got := foreign(); got != before {
		t.Errorf("the foreign table was\n%s\nand is\n%s", before, got)
	}
	k.delete(t)
	if got := ruleset(t, ns); got != before {
		t.Errorf("after Delete there is\n%s", got)
	}
}

func (k *kernel) delete(t testing.TB) {
	t.Helper()
	var err error
	k.ns.Do(func() { err = k.Delete(context.Background()) })
	if err != nil {
		t.Fatal(err)
	}
}
