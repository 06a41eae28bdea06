package ingress

import (
	"testing"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/tls/certstore"
)

// TestReadyWithoutNamedSecrets: what an Ingress names decides whether the first
// table is complete. Later it must not take replicas out of service, all at once.
func TestReadyWithoutNamedSecrets(t *testing.T) {
	certs, err := certstore.New(certstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := newSecrets(nil, Options{Log: logr.Discard(), Certs: certs})
	s.start = func(*feed) {}
	s.complete(s.scopes[""], nil)
	s.want(router.Key{Namespace: "shop", Name: "web"}, []wish{{SecretRef: certstore.SecretRef{Namespace: "shop", Name: "missing"}}})
	for released, want := range map[bool]bool{false: false, true: true} {
		checks := s.checks(released)
		named := checks[len(checks)-1]
		if named.Name != "secrets by name" || named.Ready != want || named.Detail != "of 1, 1 not delivered yet, 0 refused" {
			t.Errorf("table served: %t: %+v", released, named)
		}
	}
}
