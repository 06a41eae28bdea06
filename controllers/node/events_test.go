package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/diag"
)

// TestSaid: a problem is said once, and again when its Event may be gone; what is
// remembered is bounded.
func TestSaid(t *testing.T) {
	now := time.Unix(0, 0)
	s := said{began: now}
	p := diag.Problem{Message: "the address is taken"}
	for _, step := range []struct {
		after time.Duration
		first bool
	}{{0, true}, {0, false}, {saidFor - 1, false}, {1, false}, {saidFor, true}, {0, false}, {10 * saidFor, true}} {
		now = now.Add(step.after)
		if got := s.first(p, now); got != step.first {
			t.Errorf("at %s: %t", now, got)
		}
	}
	for i := range 10 * saidLimit {
		s.first(diag.Problem{Message: fmt.Sprint(i)}, now)
		if n := len(s.fresh) + len(s.old); n > 2*saidLimit {
			t.Fatalf("%d problems are remembered", n)
		}
	}
	if s.first(diag.Problem{Message: fmt.Sprint(10*saidLimit - 1)}, now) {
		t.Error("what was said last is forgotten")
	}
}
