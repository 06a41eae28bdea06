package folder_test

import (
	"testing"
	"time"

	"github.com/portico-ingress/portico/controllers/folder"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// TestSamples: what a new user sees first has neither faults nor problems.
func TestSamples(t *testing.T) {
	f := newFixture(t, nil, func(o *folder.Options) { o.Paths = []string{"../../config/samples"} })
	chain, key, err := acme.IssueOnce(acme.Local(), []string{"shop.localhost", "*.apps.localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := certstore.Parse(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"shop-tls", "apps-tls"} { // serve has the local issuer fill them
		f.certs.SetStandIn(certstore.SecretRef{Namespace: "default", Name: secret}, certstore.StandIn{Certificate: cert})
	}
	f.served("shop.localhost", "127.0.0.1:9201")
	for _, c := range []struct{ host, path, service string }{
		{"shop.localhost", "/api/orders", "default/api"},
		{"shop.localhost", "/apis", "default/shop"},
		{"shop.localhost", "/live/events", "default/live"},
		{"a.apps.localhost", "/echo/x", "default/api"},
		{"a.apps.localhost", "/status/", "default/shop"},
		{"a.b.apps.localhost", "/", ""},
		{"apps.localhost", "/", ""},
	} {
		d, pool := f.pub.Match(&view.Request{Method: "GET", Host: c.host, Path: c.path})
		switch {
		case c.service == "" && d.Route != nil:
			t.Errorf("%s%s goes to %s", c.host, c.path, d.Route.Service)
		case c.service != "" && (d.Route == nil || d.Route.Service != c.service || pool.Usable() == 0):
			t.Errorf("%s%s goes to %+v, want %s", c.host, c.path, d.Route, c.service)
		}
	}
	if ps := f.pub.Problems(); len(ps) > 0 {
		t.Errorf("problems: %v", ps)
	}
	f.stop()
	if text := f.report.String(); text != "" {
		t.Errorf("the user is told:\n%s", text)
	}
}
