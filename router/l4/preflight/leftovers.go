//go:build linux

package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Leftovers names what other proxies programmed on this node, and the commands
// that remove it; ours never does. A proxy that runs beside us is found as well.
func (h Host) Leftovers() []Finding {
	out, err := nftablesLeftovers()
	if err != nil {
		out = append(out, Finding{Note, "other proxies", fmt.Sprintf("nftables cannot be listed: %v", err), ""})
	}
	out = append(out, h.otherLeftovers()...)
	if len(out) == 0 {
		out = append(out, Finding{Grade: Fine, Subject: "other proxies", Message: "no rules of other proxies are known"})
	}
	return out
}

// kubelets are chains that the kubelet makes, whoever forwards: one keeps
// connections from outside away from loopback addresses.
var kubelets = []string{"KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP"}

// nftablesLeftovers looks at the network namespace of the calling thread.
func nftablesLeftovers() ([]Finding, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, t := range tables {
		if t.Name == "kube-proxy" {
			name := familyName(t.Family) + " " + t.Name
			out = append(out, other("kube-proxy (nftables)", "the table "+name, "nft delete table "+name))
		}
	}
	chains, err := c.ListChains()
	for _, ch := range chains {
		family := familyName(ch.Table.Family)
		if !strings.HasPrefix(ch.Name, "KUBE-") || family == "" || slices.Contains(kubelets, ch.Name) {
			continue
		}
		save := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[family]
		f := other("kube-proxy (iptables)", "chains KUBE-* in the table "+family+" "+ch.Table.Name,
			fmt.Sprintf("%s-save | grep -v KUBE- | %s-restore (the kubelet makes its own chains anew within a minute)", save, save))
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out, err
}

func (h Host) otherLeftovers() []Finding {
	var out []Finding
	if _, err := os.Stat(filepath.Join(h.Sys, "class/net/kube-ipvs0")); err == nil {
		out = append(out, other("kube-proxy (IPVS)", "the interface kube-ipvs0, with the address of every Service", "ip link delete kube-ipvs0 && ipvsadm --clear"))
	}
	for file, save := range map[string]string{"ip_tables_names": "iptables-legacy-save", "ip6_tables_names": "ip6tables-legacy-save"} {
		// The kernel does not say what is in them without a protocol of their own.
		if names, err := os.ReadFile(filepath.Join(h.Proc, "net", file)); err == nil && len(names) > 0 {
			out = append(out, Finding{Note, "iptables (legacy)", "tables are in use: " + strings.Join(strings.Fields(string(names)), ", ") + "; they may hold rules of kube-proxy", "look with: " + save + " | grep KUBE-"})
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Remedy, b.Remedy) })
	if _, err := os.Stat(filepath.Join(h.Sys, "class/net/cilium_host")); err == nil {
		out = append(out, Finding{Note, "Cilium", "there is the interface cilium_host: Cilium may translate connections to Services before they get here", "run one of the two: kubeProxyReplacement=false in Cilium, or no portico-node"})
	}
	return out
}

// other is the finding of a proxy: what has it, and how to remove that.
func other(proxy, has, remove string) Finding {
	return Finding{Note, proxy, "has " + has + "; where both have rules for a connection, ours decide", "if it does not run here any more: kube-proxy --cleanup, or " + remove}
}

func familyName(f nftables.TableFamily) string {
	return map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}[f]
}
