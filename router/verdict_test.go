package router

import (
	"testing"

	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/view"
)

func TestVerdict(t *testing.T) {
	route := func(p policy.Policy) *Route { return &Route{Policy: p} }
	covers := func(want string) func(string) bool { return func(h string) bool { return h == want } }
	plain := &view.Conn{}
	over := func(sni, covered, policy string) *view.Conn {
		return &view.Conn{TLS: &view.TLS{ServerName: sni, Covers: covers(covered), Policy: policy}}
	}
	req := func(c *view.Conn, scheme, host, path, proto string) *view.Request {
		return &view.Request{Conn: c, Scheme: scheme, Host: host, Path: path, Proto: proto}
	}
	const h1, h2 = "HTTP/1.1", "HTTP/2.0"
	for name, tc := range map[string]struct {
		d    Decision
		r    *view.Request
		want Verdict
	}{
		"forward":                 {Decision{Route: route(policy.Policy{})}, req(plain, "http", "a", "/", h1), Forward},
		"no table":                {Decision{Outcome: NoTable}, req(plain, "http", "a", "/", h1), Starting},
		"no route":                {Decision{}, req(plain, "http", "a", "/", h1), NotFound},
		"no route never redirect": {Decision{TLS: true}, req(plain, "http", "a", "/", h1), NotFound},
		"redirect":                {Decision{Route: route(policy.Policy{}), TLS: true}, req(plain, "http", "a", "/", h1), Redirect},
		"redirect off":            {Decision{Route: route(policy.Policy{SSLRedirect: policy.Off}), TLS: true}, req(plain, "http", "a", "/", h1), Forward},
		"no redirect on https":    {Decision{Route: route(policy.Policy{}), TLS: true}, req(plain, "https", "a", "/", h1), Forward},
		"no redirect for ACME":    {Decision{Route: route(policy.Policy{}), TLS: true}, req(plain, "http", "a", "/.well-known/acme-challenge/x", h1), Forward},
		"redirect near ACME":      {Decision{Route: route(policy.Policy{}), TLS: true}, req(plain, "http", "a", "/.well-known/acme-challengex", h1), Redirect},
		"refused":                 {Decision{Route: route(policy.Policy{Refuse: "x"})}, req(plain, "http", "a", "/", h1), Refused},
		"same host, any cert":     {Decision{Route: route(policy.Policy{})}, req(over("a", "other", ""), "https", "a", "/", h2), Forward},
		"no SNI":                  {Decision{Route: route(policy.Policy{})}, req(over("", "other", ""), "https", "a", "/", h2), Forward},
		"no host":                 {Decision{Route: route(policy.Policy{})}, req(over("a", "a", ""), "https", "", "/", "HTTP/1.0"), Forward},
		"differs, covered, h2":    {Decision{Route: route(policy.Policy{})}, req(over("a", "b", ""), "https", "b", "/", h2), Forward},
		"differs, uncovered, h2":  {Decision{Route: route(policy.Policy{})}, req(over("a", "a", ""), "https", "b", "/", h2), Misdirected},
		"differs, uncovered, h1":  {Decision{Route: route(policy.Policy{})}, req(over("a", "a", ""), "https", "b", "/", h1), Forward},
		"differs in policy, h1":   {Decision{Route: route(policy.Policy{}), TLSPolicy: "mtls"}, req(over("a", "b", ""), "https", "b", "/", h1), Misdirected},
		"differs in policy, 404":  {Decision{TLSPolicy: "mtls"}, req(over("a", "b", ""), "https", "b", "/", h1), Misdirected},
		"no SNI, other policy":    {Decision{Route: route(policy.Policy{}), TLSPolicy: "mtls"}, req(over("", "b", ""), "https", "b", "/", h1), Misdirected},
		"same host, other policy": {Decision{Route: route(policy.Policy{}), TLSPolicy: "mtls"}, req(over("b", "b", ""), "https", "b", "/", h1), Forward},
	} {
		if got := tc.d.Verdict(tc.r); got != tc.want {
			t.Errorf("%s: verdict %d, want %d", name, got, tc.want)
		}
	}
}
