//go:build linux && root

package preflight

import (
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/netns"
)

// TestNftablesLeftovers: what kube-proxy leaves in nftables is named with the
// command that removes it, and that command does.
func TestNftablesLeftovers(t *testing.T) {
	n := netns.New(t)
	look := func() string {
		var found []Finding
		var err error
		n.Do(func() { found, err = nftablesLeftovers() })
		if err != nil {
			t.Fatal(err)
		}
		return texts(found)
	}
	if got := look(); got != "" {
		t.Errorf("in a namespace of nobody: %s", got)
	}
	for _, command := range []string{
		"add table ip kube-proxy", "add table ip6 kube-proxy", "add table ip portico-node", "add table ip nat", "add table inet other",
		"add chain ip nat KUBE-SERVICES", "add chain ip nat KUBE-POSTROUTING", "add chain inet other KUBERNETES",
	} {
		n.Run(t, "nft", strings.Fields(command)...)
	}
	got := look()
	for _, want := range []string{"nft delete table ip kube-proxy", "nft delete table ip6 kube-proxy", "iptables-save | grep -v KUBE- | iptables-restore"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("not once %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "portico-node") || strings.Contains(got, "inet") {
		t.Errorf("what is not kube-proxy's is named:\n%s", got)
	}
	n.Run(t, "nft", "delete", "table", "ip", "kube-proxy")
	if got := look(); strings.Contains(got, "table ip kube-proxy") {
		t.Errorf("what was removed is still named:\n%s", got)
	}
}
