package envtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// backends are the echo servers by the address that EndpointSlices give them.
// The apiserver refuses loopback addresses in slices, so instances dial these
// addresses through dialBackend.
var backends sync.Map // netip.Addr → listener address on 127.0.0.1

// lastAddress numbers the addresses of backends, 10.0.0.1 upwards.
var lastAddress atomic.Uint32

// dialBackend connects to the echo server that has the address.
func dialBackend(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	local, ok := backends.Load(to.Addr())
	if !ok || to.Port() != endpointPort {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.Join(fmt.Errorf("no backend at %s", to), syscall.ECONNREFUSED)}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", local.(string))
}

// An echo is what a backend answers: who it is, and the request as it came.
type echo struct {
	Backend string
	Method  string
	Host    string
	Target  string
	Headers http.Header
}

// newBackend starts an echo server and returns its address.
func newBackend(t testing.TB, name string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(echo{name, r.Method, r.Host, r.RequestURI, r.Header}); err != nil {
			t.Errorf("backend %s: %v", name, err)
		}
	}))
	n := lastAddress.Add(1)
	addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	backends.Store(addr, srv.Listener.Addr().String())
	t.Cleanup(func() {
		backends.Delete(addr)
		srv.Close()
	})
	return addr.String()
}

// echoService makes a Service with one backend of the same name.
func (c *cluster) echoService(name string) *discoveryv1.EndpointSlice {
	c.t.Helper()
	return c.service(name, ready(newBackend(c.t, name)))
}
