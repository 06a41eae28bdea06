package explain

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/certstore"
)

func source(t *testing.T) Source {
	t.Helper()
	backend := func(name string) router.Backend { return router.Backend{Namespace: "shop", Service: name, Port: "80"} }
	path := func(typ router.PathType, p, svc string) router.Path {
		return router.Path{Path: p, Type: typ, Backend: backend(svc), Field: "spec.rules[0].http.paths[0]"}
	}
	origin := func(name string) router.Origin {
		return router.Origin{Ref: diag.Ref{Kind: "Ingress", Namespace: "shop", Name: name}}
	}
	certs, err := certstore.New(certstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := testcert.New(t).LeafOf(testcert.ECDSA, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), "shop.example")
	cert, err := certstore.Parse(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	ref := certstore.SecretRef{Namespace: "shop", Name: "tls"}
	certs.SetSecret(ref, cert, "")
	certs.SetClaims([]certstore.Claim{{Host: "shop.example", Owner: "shop", TLS: true, Secret: ref}}, nil)
	return Source{
		Certs: certs,
		Table: router.Compile(router.Options{}, []*router.Ingress{
			{Origin: origin("web"), TLS: []router.TLS{{Hosts: []string{"shop.example"}, Secret: "tls", Field: "spec.tls[0]"}},
				Rules: []router.Rule{{Host: "shop.example", Field: "spec.rules[0]", Paths: []router.Path{
					path(router.Prefix, "/", "web"), path(router.Exact, "/api", "api"), path(router.Prefix, "/api/v1", "down"),
				}}}},
			{Origin: origin("calls"), Policy: policy.Policy{Backend: policy.Backend{Protocol: policy.GRPCS}},
				Rules: []router.Rule{{Host: "calls.example", Field: "spec.rules[0]", Paths: []router.Path{path(router.Prefix, "/", "web")}}}},
			{Origin: origin("verified"), Policy: policy.Policy{Backend: policy.Backend{Protocol: policy.HTTPS, Secret: "gone"}},
				Rules: []router.Rule{{Host: "verified.example", Field: "spec.rules[0]", Paths: []router.Path{path(router.Prefix, "/", "web")}}}},
			{Origin: origin("guarded"), Policy: policy.Policy{Refuse: "not enforced"},
				Rules: []router.Rule{{Host: "guarded.example", Field: "spec.rules[0]", Paths: []router.Path{path(router.Prefix, "/", "web")}}}},
		}),
		Credentials: func(upstream.SecretRef) *upstream.Credentials { return nil },
		State: func(k upstream.Key) *upstream.State {
			if k.Service == "down" {
				return &upstream.State{Reason: "Service shop/down has no endpoints"}
			}
			return &upstream.State{Endpoints: []upstream.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:8080"), Ready: true, Target: "Pod shop/web-1"}}}
		},
	}
}

func TestExplain(t *testing.T) {
	src := source(t)
	for name, tc := range map[string]struct {
		in     Input
		status int
		want   []string
	}{
		"routed": {Input{URL: "https://SHOP.example:8443/a/../cart?x=1"}, 0,
			[]string{"GET https://shop.example/cart?x=1 from 192.0.2.1", "-> shop.example", "-> Prefix /", "Service shop/web, port 80",
				"192.0.2.1:8080 ready, Pod shop/web-1", "Secret shop/tls: spec.tls names the host", "warning: it expired", "forwarded to shop/web:80"}},
		"exact before prefix": {Input{URL: "https://shop.example/api"}, 0, []string{"-> Exact /api", "matches too, but is shorter"}},
		"no endpoints":        {Input{URL: "https://shop.example/api/v1/x"}, 503, []string{"Service shop/down has no endpoints", "=> 503"}},
		"redirect":            {Input{URL: "http://shop.example/"}, 308, []string{"=> 308", "ssl-redirect"}},
		"no scheme":           {Input{URL: "shop.example/x"}, 308, []string{"GET http://shop.example/x"}},
		"no route":            {Input{URL: "http://other.example/"}, 404, []string{"no Ingress that is served names it", "=> 404"}},
		"other host by header": {Input{URL: "https://shop.example/", Headers: []string{"Host: guarded.example"}}, 503,
			[]string{"Certificate (SNI shop.example)", "-> guarded.example", "not enforced"}},
		"client":       {Input{URL: "http://other.example/", From: netip.MustParseAddr("::ffff:198.51.100.7")}, 404, []string{"from 198.51.100.7"}},
		"CONNECT":      {Input{URL: "https://shop.example/", Method: "CONNECT"}, 405, []string{"=> 405", "CONNECT"}},
		"traversal":    {Input{URL: "https://shop.example/a/..%2fb"}, 400, []string{"=> 400: refused: path contains"}},
		"bad Host":     {Input{URL: "https://shop.example/", Headers: []string{"Host: a/b"}}, 400, []string{"=> 400: refused: host is not a valid name"}},
		"h2c":          {Input{URL: "https://shop.example/", Headers: []string{"Upgrade: websocket, H2C"}}, 400, []string{"=> 400", "h2c"}},
		"gRPC":         {Input{URL: "http://calls.example/"}, 0, []string{"policy backend-protocol=GRPCS", "speaks GRPCS, without verifying", "forwarded to shop/web:80"}},
		"not verified": {Input{URL: "http://verified.example/"}, 503, []string{"=> 503: refused: the Secret gone"}},
		"no match":     {Input{URL: "http://guarded.example/", Method: "POST"}, 503, []string{"POST http://guarded.example/", "refused"}},
	} {
		rep, err := Explain(src, tc.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var b strings.Builder
		if err := rep.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		if rep.Status != tc.status || rep.Routed() != (tc.status == 0) {
			t.Errorf("%s: status %d, want %d", name, rep.Status, tc.status)
		}
		for _, want := range tc.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, b.String())
			}
		}
		if err := rep.WriteJSON(&strings.Builder{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExplainRefusesInput(t *testing.T) {
	src := source(t)
	for _, in := range []Input{
		{URL: ""}, {URL: "ftp://a/"}, {URL: "http:///x"}, {URL: "http://a b/"},
		{URL: "http://a/", Headers: []string{"nonsense"}}, {URL: "http://a/", Method: "G T"},
	} {
		if _, err := Explain(src, in); err == nil {
			t.Errorf("%+v was accepted", in)
		}
	}
}

// TestExplainTrustsProxies: behind a proxy that says https, nothing is
// redirected.
func TestExplainTrustsProxies(t *testing.T) {
	in := Input{URL: "http://shop.example/", From: netip.MustParseAddr("10.0.0.1"), Headers: []string{"X-Forwarded-Proto: https", "X-Forwarded-For: 198.51.100.9"}}
	rep, err := Explain(source(t), in)
	if err != nil || rep.Status != 308 || rep.Request.Client.String() != "10.0.0.1" {
		t.Errorf("untrusted: %+v, %v", rep, err)
	}
	in.Trust = view.Trust{netip.MustParsePrefix("10.0.0.0/8")}
	rep, err = Explain(source(t), in)
	if err != nil || !rep.Routed() || rep.Request.Client.String() != "198.51.100.9" {
		t.Errorf("trusted: %+v, %v", rep, err)
	}
}
