package certs

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/translate"
)

// TestUnconfigured: where there is no issuer, those who ask one by name are told, and
// nobody else: tls-acme does nothing then.
func TestUnconfigured(t *testing.T) {
	u := &Unconfigured{tracker: NewTracker(translate.Options{WatchWithoutClass: true}, func() {})}
	for _, ing := range []*networkingv1.Ingress{
		ingress(t, "a/asks", time.Hour, annotated(asks, "le"), entryFor("tls", "a.example")),
		ingress(t, "a/asks-without-tls", time.Hour, annotated(asks, "")),
		ingress(t, "a/tls-acme", time.Hour, annotated(translate.TLSACMEAnnotation, "true"), entryFor("tls2", "b.example")),
		ingress(t, "a/cert-manager", time.Hour, annotated(asks, "le", "cert-manager.io/issuer", "x"), entryFor("tls3", "c.example")),
		ingress(t, "a/plain", time.Hour, nil, entryFor("tls4", "d.example")),
	} {
		u.tracker.set(ing, true)
	}
	problems, err := u.problems(t.Context())
	if err != nil || len(problems) != 2 || problems[0].Object.Name != "asks" || problems[1].Object.Name != "asks-without-tls" || problems[0].Reason != ReasonNoIssuer {
		t.Errorf("%v, %v", problems, err)
	}
}
