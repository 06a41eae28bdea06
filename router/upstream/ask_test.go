package upstream

import (
	"testing"
	"time"

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
