package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/backend"
)

// speaks has the backends of a rig speak HTTP/2, played by Go's own server.
func (g *rig) speaks(serve http.HandlerFunc) {
	g.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	srv := &http.Server{Handler: serve, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(ln) })
	g.t.Cleanup(func() { srv.Close(); done.Wait() })
	g.reg.Set(webKey, &upstream.State{Protocol: policy.GRPC,
		Endpoints: []upstream.Endpoint{{Addr: ln.Addr().(*net.TCPAddr).AddrPort(), Ready: true}}})
}

// TestH2Backends: what an HTTP/2 backend says reaches clients of either
// protocol, and what they say reaches it.
func TestH2Backends(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	g.speaks(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Add("Set-Cookie", "a=b")
		w.Header().Add("Set-Cookie", "c=d")
		fmt.Fprintf(w, "%s %s %s %s te=%s connection=%s cookie=%s %s", r.Proto, r.Method, r.Host, r.URL, r.Header.Get("Te"), r.Header.Get("Connection"), r.Header.Get("Cookie"), body)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("X-Sum", "7")
	})
	const want = "HTTP/2.0 POST h /a?b te=trailers connection= cookie=x=y hello"
	c := g.dial()
	c.send("POST /a?b HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE, keep-alive\r\nCookie: x=y\r\nContent-Length: 5\r\n\r\nhello")
	resp := c.response("POST")
	body, err := io.ReadAll(resp.Body)
	if string(body) != want || err != nil || resp.Trailer.Get("X-Sum") != "7" || len(resp.Header["Set-Cookie"]) != 2 {
		t.Errorf("HTTP/1.1: %q, %v, trailers %v, %v", body, err, resp.Trailer, resp.Header)
	}
	req := request(t, "POST", "https://h/a?b", strings.NewReader("hello"))
	req.Header.Set("Te", "trailers")
	req.Header.Set("Cookie", "x=y")
	resp, err = g.h2("").RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err = io.ReadAll(resp.Body)
	if string(body) != want || err != nil || resp.Trailer.Get("X-Sum") != "7" {
		t.Errorf("HTTP/2: %q, %v, trailers %v", body, err, resp.Trailer)
	}
}

// TestCancelReachesH2Backends: a client that resets its stream ends the work
// for it.
func TestCancelReachesH2Backends(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	began, ended := make(chan struct{}), make(chan struct{})
	g.speaks(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := g.h2("").RoundTrip(request(t, "GET", "https://h/", nil).WithContext(ctx)); err == nil {
			t.Error("there is a response")
		}
	}()
	<-began
	cancel()
	<-ended
	<-done
}

// TestUnverifiedBackends: nothing is sent to a backend that must be verified and
// cannot be.
func TestUnverifiedBackends(t *testing.T) {
	var g *rig
	g = newRig(t, backend.OK("ok"), func(o *Options) {
		o.Snapshots = match(func(*view.Request) (router.Decision, *upstream.Pool) {
			r := &router.Route{Ingress: "shop/web", Service: "shop/web", Backend: router.Backend(webKey)}
			r.Policy.Backend = policy.Backend{Protocol: policy.HTTPS, Secret: "gone"}
			return router.Decision{Outcome: router.ByPath, Route: r}, g.pool
		})
	})
	if status, _ := g.dial().do("GET / HTTP/1.1\r\nHost: h\r\n\r\n"); status != 503 || g.record(0).Reason != "backend_unverified" || g.backend.Conns() != 0 {
		t.Errorf("%d, %s, %d connections", status, g.record(0).Reason, g.backend.Conns())
	}
}
