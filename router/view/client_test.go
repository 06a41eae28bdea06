package view

import (
	"crypto/tls"
	"net/netip"
	"testing"
)

func TestIdentify(t *testing.T) {
	trust := Trust{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for name, tc := range map[string]struct {
		peer    string
		https   bool
		fields  Fields
		client  string
		scheme  string
		trusted bool
	}{
		"plain":              {"192.0.2.1", false, nil, "192.0.2.1", "http", false},
		"TLS":                {"192.0.2.1", true, nil, "192.0.2.1", "https", false},
		"untrusted says":     {"192.0.2.1", false, Fields{{"X-Forwarded-For", "198.51.100.1"}, {"X-Forwarded-Proto", "https"}}, "192.0.2.1", "http", false},
		"trusted says":       {"10.0.0.1", false, Fields{{"X-Forwarded-For", "198.51.100.1"}, {"x-forwarded-proto", "HTTPS"}}, "198.51.100.1", "https", true},
		"trusted, mapped":    {"::ffff:10.0.0.1", false, Fields{{"X-Forwarded-For", "::ffff:198.51.100.1"}}, "198.51.100.1", "http", true},
		"trusted says http":  {"10.0.0.1", true, Fields{{"X-Forwarded-Proto", "http, https"}}, "10.0.0.1", "http", true},
		"rightmost":          {"10.0.0.1", false, Fields{{"X-Forwarded-For", "1.1.1.1, 198.51.100.1"}, {"X-Forwarded-For", "10.9.9.9, [2001:db8::7]:80"}}, "198.51.100.1", "http", true},
		"all trusted":        {"10.0.0.1", false, Fields{{"X-Forwarded-For", "10.0.0.2, 10.0.0.3"}}, "10.0.0.2", "http", true},
		"nonsense ends it":   {"10.0.0.1", false, Fields{{"X-Forwarded-For", "198.51.100.1, unknown, 10.0.0.3"}}, "10.0.0.3", "http", true},
		"another scheme":     {"10.0.0.1", false, Fields{{"X-Forwarded-Proto", "ftp"}}, "10.0.0.1", "http", true},
		"empty list element": {"10.0.0.1", false, Fields{{"X-Forwarded-For", " , 198.51.100.1 ,"}}, "198.51.100.1", "http", true},
	} {
		r := &Request{Fields: tc.fields, Conn: &Conn{Peer: netip.AddrPortFrom(netip.MustParseAddr(tc.peer), 1)}}
		if tc.https {
			r.Conn.TLS = &TLS{Version: tls.VersionTLS13}
		}
		if trusted := trust.Identify(r); trusted != tc.trusted || r.Client.String() != tc.client || r.Scheme != tc.scheme {
			t.Errorf("%s: client %s, scheme %s, trusted %v; want %s, %s, %v", name, r.Client, r.Scheme, trusted, tc.client, tc.scheme, tc.trusted)
		}
	}
}
