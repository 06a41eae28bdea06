package folder_test

import (
	"testing"

	"github.com/portico-ingress/portico/controllers/folder"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/localca"
)

// TestSamples: what a new user sees first has neither faults nor problems.
func TestSamples(t *testing.T) {
	ca, err := localca.New(localca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, nil, func(o *folder.Options) { o.Paths, o.CA = []string{"../../config/samples"}, ca })
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
