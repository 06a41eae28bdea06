package certstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/certstore"
)

func TestStandIn(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	leaf := func(host string) *certstore.Certificate {
		certPEM, keyPEM := ca.LeafOf(testcert.ECDSA, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), host)
		return parse(t, certPEM, keyPEM)
	}
	own, other := leaf("web.example"), leaf("web.example")
	secret := ref("shop/web")
	s.SetClaims([]certstore.Claim{claim("web.example", "shop", "shop/web")}, nil)
	served := func(want *certstore.Certificate, why string) {
		t.Helper()
		got := s.Select("web.example")
		if want == nil && !strings.Contains(got.Why, why) || want != nil && got.Certificate != want {
			t.Errorf("served from %s because %q, want %q", got.Source, got.Why, why)
		}
	}
	served(nil, "does not exist")
	s.SetStandIn(secret, certstore.StandIn{Pending: "ordered from x"})
	served(nil, "ordered from x")
	if p := s.Problems(); len(p) != 1 || p[0].Reason != certstore.ReasonPending {
		t.Errorf("problems %v", p)
	}
	s.SetSecret(secret, other, "")
	served(other, "")
	s.SetStandIn(secret, certstore.StandIn{Certificate: own})
	served(own, "")
	s.SetStandIn(secret, certstore.StandIn{Certificate: leaf("mall.example")})
	served(nil, "not for web.example")
	if p := s.Problems(); len(p) != 1 || p[0].Reason != certstore.ReasonMismatch {
		t.Errorf("problems %v", p)
	}
	s.SetStandIn(secret, certstore.StandIn{Fallback: own})
	served(other, "")
	s.DeleteSecret(secret) // no moment without a certificate
	served(own, "")
	s.SetSecret(secret, nil, "tls.crt is missing or empty")
	served(own, "")
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("problems %v", p)
	}
	s.SetStandIn(secret, certstore.StandIn{})
	served(nil, "tls.crt is missing")
	s.DeleteSecret(secret)
	served(nil, "does not exist")
}

// TestPendingExplains: where somebody sees to the certificate, the owner is told how
// that is getting on, also where what there is has ended, or is not for the host.
func TestPendingExplains(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	leaf := func(until time.Time) *certstore.Certificate {
		certPEM, keyPEM := ca.LeafOf(testcert.ECDSA, time.Now().Add(-2*time.Hour), until, "web.example")
		return parse(t, certPEM, keyPEM)
	}
	secret := ref("shop/web")
	s.SetClaims([]certstore.Claim{claim("web.example", "shop", "shop/web"), claim("new.example", "shop", "shop/web")}, nil)
	s.SetSecret(secret, leaf(time.Now().Add(-time.Hour)), "")
	s.SetStandIn(secret, certstore.StandIn{Pending: "le did not issue it: no"})
	s.SetStandIn(secret, certstore.StandIn{Pending: "le did not issue it: never"})
	problems := s.Problems()
	if len(problems) != 2 {
		t.Fatalf("%v", problems)
	}
	for _, p := range problems {
		if !strings.Contains(p.Message, "le did not issue it: never") || !strings.Contains(p.Remedy, "portico cert why") || p.Reason == certstore.ReasonMismatch {
			t.Errorf("%v", p)
		}
	}
	if why := s.Select("new.example").Why; !strings.Contains(why, "in Secret shop/web is for web.example, not for new.example; le did not issue it: never") {
		t.Error(why)
	}
	s.SetStandIn(secret, certstore.StandIn{})
	for _, p := range s.Problems() {
		if strings.Contains(p.Text(), "le did not") || !strings.Contains(p.Remedy, "Secret") {
			t.Errorf("%v", p)
		}
	}
}

// TestDefaultStandIn: what stands in for the default Secret is what is served by
// default.
func TestDefaultStandIn(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	certPEM, keyPEM := ca.LeafOf(testcert.ECDSA, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), "web.example")
	own := parse(t, certPEM, keyPEM)
	s.SetDefault(ref("a/tls"))
	s.SetStandIn(ref("a/tls"), certstore.StandIn{Fallback: own})
	if got := s.Select("other.example"); got.Certificate != own {
		t.Errorf("served is %+v", got)
	}
}
