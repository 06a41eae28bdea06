//go:build acme

package acme

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/pebble"
)

// TestMinutes: certificates that live for minutes are renewed in time by the real
// program. While the CA is gone for longer than one lives, the last is served on,
// and soon after it is back there is another. PORTICO_ACME_LIFETIME is in seconds.
func TestMinutes(t *testing.T) {
	t.Parallel()
	life := time.Duration(count(t, "PORTICO_ACME_LIFETIME", 40)) * time.Second
	f := newFleet(t, 0, pebble.Options{Lifetime: life})
	text := fmt.Sprintf("issuers: [{name: pebble, directory: %q, caBundle: %q, profile: default}]\n", f.ca.URL, f.ca.Bundle())
	if err := os.WriteFile(f.issuers, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start()
	r := f.start()
	f.ingress("web", "a.example")
	f.waitServed("web", "a.example")
	served := func() *x509.Certificate {
		leaf, err := r.serves("a.example")
		if err != nil || leaf.VerifyHostname("a.example") != nil {
			t.Errorf("a handshake: %v", err)
		}
		return leaf
	}
	follows := func(last *x509.Certificate) func() error {
		return func() error {
			if leaf := served(); leaf.Equal(last) {
				return fmt.Errorf("still the one until %v", leaf.NotAfter)
			}
			return nil
		}
	}
	first := served()
	f.within(life, "renewal", follows(first))
	if time.Now().After(first.NotAfter) {
		t.Error("it was not renewed in time")
	}
	f.ca.Down(true)
	last := served()
	f.within(3*life, "more than a life without a CA", func() error {
		if leaf := served(); !leaf.Equal(last) {
			last = leaf // it was on its way
		}
		if left := time.Until(last.NotAfter.Add(life / 2)); left > 0 {
			return fmt.Errorf("%v to go", left)
		}
		return nil
	})
	f.ca.Down(false)
	f.within(life, "another one", follows(last))
	f.waitServed("web", "a.example")
	for _, r := range f.replicas {
		if strings.Contains(r.log.String(), "DATA RACE") {
			t.Error("a race in the program")
		}
	}
}
