//go:build linux

package preflight

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// host makes one whose files are these.
func host(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Proc: filepath.Join(root, "proc"), Sysctls: filepath.Join(root, "proc/sys"), Sys: filepath.Join(root, "sys")}
}

func texts(findings []Finding) string {
	var out strings.Builder
	for _, f := range findings {
		out.WriteString(f.Grade.String() + " " + f.Subject + ": " + f.Message + " → " + f.Remedy + "\n")
	}
	return out.String()
}

func TestKernel(t *testing.T) {
	for name, tc := range map[string]struct{ release, status, want string }{
		"new":     {"6.18.44", "Name:\tx\nCapEff:\t0000000000001000\n", "ok kernel: Linux 6.18.44 → \nok privilege: CAP_NET_ADMIN → \n"},
		"just":    {"5.13.0-30-generic", "CapEff:\t000001ffffffffff\n", "ok kernel"},
		"old":     {"5.10.0-9-amd64", "CapEff:\t0000000000001000\n", "FAULT kernel: Linux 5.10.0-9-amd64 is too old"},
		"strange": {"plan9", "CapEff:\t0000000000001000\n", "note kernel"},
		"weak":    {"6.1.0", "CapEff:\t00000000a80425fb\n", "FAULT privilege: the capability NET_ADMIN is missing"},
		"silent":  {"6.1.0", "", "FAULT privilege"},
	} {
		h := host(t, map[string]string{"proc/sys/kernel/osrelease": tc.release + "\n", "proc/self/status": tc.status})
		if got := texts(h.Kernel()); !strings.Contains(got, tc.want) {
			t.Errorf("%s: no %q in\n%s", name, tc.want, got)
		}
	}
}

// TestConntrackSettings: what kube-proxy's defaults make of a number of cores.
func TestConntrackSettings(t *testing.T) {
	for cores, want := range map[int]int{1: 131072, 4: 131072, 8: 262144, 128: mostTracked} {
		s := DefaultConntrack().Settings(cores)
		if s[0].Name() != "net.netfilter.nf_conntrack_max" || s[0].Want != want || s[1].Want != want/4 {
			t.Errorf("%d cores: %v, want %d", cores, s[:2], want)
		}
	}
	if s := (Conntrack{}).Settings(8); len(s) != 0 {
		t.Errorf("nothing was asked for: %v", s)
	}
}

func TestCheckAndWrite(t *testing.T) {
	h := host(t, map[string]string{
		"proc/sys/net/netfilter/nf_conntrack_max":                     "262144\n", // more than is asked for
		"proc/sys/net/netfilter/nf_conntrack_buckets":                 "1024\n",
		"proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established": "432000\n",
	})
	settings := DefaultConntrack().Settings(1)
	before := texts(h.Check(settings))
	for _, want := range []string{
		"ok sysctl net.netfilter.nf_conntrack_max: 262144",
		"note sysctl net.netfilter.nf_conntrack_buckets: is 1024, should be 32768", "→ sysctl -w net.netfilter.nf_conntrack_buckets=32768",
		"note sysctl net.netfilter.nf_conntrack_tcp_timeout_close_wait: cannot be read",
	} {
		if !strings.Contains(before, want) {
			t.Errorf("no %q in\n%s", want, before)
		}
	}
	set, err := h.Write(settings)
	if want := []string{"net.netfilter.nf_conntrack_buckets=32768", "net.netfilter.nf_conntrack_tcp_timeout_established=86400"}; !slices.Equal(set, want) {
		t.Errorf("set %v, want %v", set, want)
	}
	if err == nil || !strings.Contains(err.Error(), "nf_conntrack_tcp_timeout_close_wait cannot be set to 3600") {
		t.Errorf("a setting that the kernel does not have: %v", err)
	}
	if after := texts(h.Check(settings)); strings.Contains(after, "should be 32768") || strings.Contains(after, "should be 86400") {
		t.Errorf("after writing:\n%s", after)
	}
}

func TestRouting(t *testing.T) {
	h := host(t, map[string]string{
		"proc/sys/net/ipv4/ip_forward": "0\n", "proc/sys/net/ipv6/conf/all/forwarding": "1\n",
		"proc/sys/net/ipv4/conf/all/route_localnet": "1\n", "sys/class/net/cni0/bridge/x": "",
	})
	got := texts(h.Check(h.Routing()))
	for _, want := range []string{
		"FAULT sysctl net.ipv4.ip_forward: is 0, should be 1", "ok sysctl net.ipv6.conf.all.forwarding",
		"note sysctl net.bridge.bridge-nf-call-iptables: cannot be read", "cni0", "note sysctl net.ipv4.conf.all.route_localnet: is 1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestOtherLeftovers(t *testing.T) {
	h := host(t, map[string]string{"sys/class/net/kube-ipvs0/x": "", "sys/class/net/cilium_host/x": "", "proc/net/ip_tables_names": "nat\nfilter\n", "proc/net/ip6_tables_names": ""})
	got := texts(h.otherLeftovers())
	for _, want := range []string{"ip link delete kube-ipvs0 && ipvsadm --clear", "nat, filter", "iptables-legacy-save | grep KUBE-", "Cilium"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "ip6tables") {
		t.Errorf("tables that are not in use are named:\n%s", got)
	}
}
