package upstream

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/portico-ingress/portico/test/backend"
)

// TestTimeOfAnAttempt: however long ago the request began, a connection that had to
// be waited for leaves the backend all of its time.
func TestTimeOfAnAttempt(t *testing.T) {
	p, _ := serve(t, backend.OK("x"))
	req := simple()
	req.Start = time.Now().Add(-time.Hour)
	if body, err := get(t, p, req); err != nil || body != "x" {
		t.Errorf("%q, %v", body, err)
	}
}

// TestUnusedConnectionHoldsNothing: neither a buffer nor the last request.
func TestUnusedConnectionHoldsNothing(t *testing.T) {
	p, _ := serve(t, backend.OK("x"))
	for range 2 { // the second one is asked
		req := simple()
		resp, err := p.Do(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, resp)
		c := resp.exchange.(*h1Exchange).conn
		buffer, request := weak.Make(c.pooled), weak.Make(req)
		resp.Close()
		for timeout := time.After(10 * time.Second); buffer.Value() != nil || request.Value() != nil; runtime.GC() {
			select {
			case <-timeout:
				t.Fatalf("buffer held: %t, request held: %t", buffer.Value() != nil, request.Value() != nil)
			default:
			}
		}
		runtime.KeepAlive(c)
	}
}
