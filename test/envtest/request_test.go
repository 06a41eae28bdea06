package envtest_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portico-ingress/portico/router/view"
)

type answer struct {
	status int
	echo   echo
}

// get sends one request for a host and path and returns the answer.
func (in *instance) get(host, path string) answer {
	in.t.Helper()
	h, err := view.CanonicalHost(host)
	if err != nil {
		in.t.Fatal(err)
	}
	p, err := view.CanonicalPath(path)
	if err != nil {
		return answer{status: 400}
	}
	d, pool := in.publisher.Match(&view.Request{Method: "GET", Scheme: "http", Host: h, Path: p, Conn: &view.Conn{}, Client: netip.MustParseAddr("127.0.0.1")})
	if d.Route == nil {
		return answer{status: 404}
	}
	target := pool.Pick()
	if target == nil {
		return answer{status: 503}
	}
	return answer{status: 200, echo: echo{Backend: target.Endpoint.Addr.Addr().String()}}
}

// served tells what answers a request: the backend's name, or a status code.
func (in *instance) served(host, path string) string {
	in.t.Helper()
	a := in.get(host, path)
	if a.status != 200 {
		return fmt.Sprint(a.status)
	}
	return nameOf(a.echo.Backend)
}

// wait waits until a request is answered by the given backend or status.
func (in *instance) wait(host, path, want string) {
	in.t.Helper()
	eventually(in.t, func() error {
		if got := in.served(host, path); got != want {
			return fmt.Errorf("%s%s is answered by %s, want %s", host, path, got, want)
		}
		return nil
	})
}

// quiet passes on log lines until the test has ended: testing panics on later
// ones, and managers have goroutines that outlive their stop.
type quiet struct {
	testing.TB
}

func quietAfterTest(t *testing.T) quiet { return quiet{t} }

// Log passes on one line.
func (q quiet) Log(args ...any) {
	if q.Context().Err() == nil {
		q.TB.Log(args...)
	}
}

func nameOf(address string) string {
	if n, ok := names.Load(address); ok {
		return n.(string)
	}
	return address
}
