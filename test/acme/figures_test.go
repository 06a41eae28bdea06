//go:build acme

package acme

import (
	"fmt"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/pebble"
	"github.com/portico-ingress/portico/tls/acme"
)

// TestFigures gets names one after another and all at once, with good nonces and
// with bad ones, and says how long it took: see docs/certificates.md.
func TestFigures(t *testing.T) {
	names := count(t, "PORTICO_ACME_NAMES", 3)
	for _, bad := range []int{0, 50} {
		for _, parallel := range []bool{false, true} {
			t.Run(fmt.Sprintf("nonces=%d parallel=%v", bad, parallel), func(t *testing.T) {
				r := newRig(t)
				ca := r.pebble(pebble.Options{NonceReject: bad})
				i := issuer(t, ca)
				r.start()
				var list []acme.Wanted
				begun := time.Now()
				for n := range names {
					w := wanted(i, fmt.Sprintf("h%d.example", n))
					if list = append(list, w); !parallel {
						r.manager.Want(list)
						r.certificate(w)
					}
				}
				r.manager.Want(list)
				for _, w := range list {
					r.certificate(w)
				}
				took := time.Since(begun)
				t.Logf("%d names in %v, %v a name", names, took.Round(10*time.Millisecond), (took / time.Duration(names)).Round(10*time.Millisecond))
				if orders := ca.Orders(); len(orders) != names {
					t.Errorf("orders: %v", orders)
				}
			})
		}
	}
}
