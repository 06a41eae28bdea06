package upstream

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestDialPolicy(t *testing.T) {
	cluster := DialPolicy{
		Listeners: []netip.AddrPort{netip.MustParseAddrPort("[::]:8080"), netip.MustParseAddrPort("10.1.2.3:9090")},
		Local:     []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")},
	}
	folder := DialPolicy{AllowLoopback: true, Listeners: cluster.Listeners}
	for addr, want := range map[string][2]string{ // cluster, folder; "" passes
		"10.0.0.1:80":                 {"", ""},
		"192.168.1.1:80":              {"", ""},
		"[fd00::1]:80":                {"", ""},
		"[2001:db8::1]:80":            {"", ""},
		"[64:ff9b::a00:1]:80":         {"", ""},
		"127.0.0.1:80":                {"loopback", ""},
		"127.9.9.9:80":                {"loopback", ""},
		"[::1]:80":                    {"loopback", ""},
		"[::ffff:127.0.0.1]:80":       {"loopback", ""},
		"[::127.0.0.1]:80":            {"loopback", ""},
		"[64:ff9b::7f00:1]:80":        {"loopback", ""},
		"[2002:7f00:1::]:80":          {"loopback", ""},
		"0.0.0.0:80":                  {"unspecified", "unspecified"},
		"0.1.2.3:80":                  {"unspecified", "unspecified"},
		"[::]:80":                     {"unspecified", "unspecified"},
		"[::ffff:0.0.0.0]:80":         {"unspecified", "unspecified"},
		"169.254.169.254:80":          {"metadata", "metadata"},
		"169.254.1.1:80":              {"link-local", "link-local"},
		"[::ffff:169.254.169.254]:80": {"metadata", "metadata"},
		"[64:ff9b::a9fe:a9fe]:80":     {"metadata", "metadata"},
		"[2002:a9fe:a9fe::1]:80":      {"metadata", "metadata"},
		"[fd00:ec2::254]:80":          {"metadata", "metadata"},
		"[fe80::1]:80":                {"link-local", "link-local"},
		"[fe80::1%eth0]:80":           {"interface", "interface"},
		"224.0.0.1:80":                {"multicast", "multicast"},
		"255.255.255.255:80":          {"multicast", "multicast"},
		"[ff02::1]:80":                {"multicast", "multicast"},
		"[64:ff9b::e000:1]:80":        {"multicast", "multicast"},
		"10.1.2.3:8080":               {"our own", ""}, // folder does not know its addresses
		"10.1.2.3:9090":               {"our own", "our own"},
		"[::ffff:10.1.2.3]:9090":      {"our own", "our own"},
		"[64:ff9b::a01:203]:9090":     {"our own", "our own"},
		"[fd00::3]:8080":              {"our own", ""},
		"127.0.0.1:8080":              {"loopback", "our own"},
		"10.1.2.4:8080":               {"", ""},
		"10.0.0.1:0":                  {"no port", "no port"},
	} {
		ap := netip.MustParseAddrPort(addr)
		for i, p := range []DialPolicy{cluster, folder} {
			err := p.Check(ap)
			switch {
			case want[i] == "" && err != nil:
				t.Errorf("%s, policy %d: %v", addr, i, err)
			case want[i] != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want[i])):
				t.Errorf("%s, policy %d: %v, want %q", addr, i, err, want[i])
			}
		}
	}
	if cluster.Check(netip.AddrPort{}) == nil {
		t.Error("the zero address passes")
	}
}
