package acme

import (
	"testing"

	"github.com/portico-ingress/portico/test/pebble"
	"github.com/portico-ingress/portico/tls/acme"
)

func TestChallenges(t *testing.T) {
	for _, challenge := range []string{acme.HTTP01, acme.TLSALPN01} {
		t.Run(challenge, func(t *testing.T) {
			r := newRig(t)
			ca := r.pebble(pebble.Options{NonceReject: 20})
			w := acme.Wanted{Issuer: issuer(t, ca, func(c *acme.IssuerConfig) { c.Challenges = []string{challenge} }), Names: []string{"a.example", "b.example"}}
			r.start()
			r.manager.Want([]acme.Wanted{w})
			rec := r.certificate(w)
			for _, name := range w.Names {
				if err := rec.Leaf().VerifyHostname(name); err != nil {
					t.Error(err)
				}
			}
			if n := ca.Orders()["a.example,b.example"]; n != 1 {
				t.Errorf("%d orders, want one for both names: %v", n, ca.Orders())
			}
		})
	}
}
