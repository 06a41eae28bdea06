package ingress

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/certstore"
)

// What a feed delivers goes to the certificate store, or to the registry if it
// is for backends. A Secret of which nothing is known here is one that has been
// neither delivered nor refused: nothing is wrong with it yet.

// parse reads a Secret, and returns what hands the result over; that is called
// with mu held.
func (s *secrets) parse(f *feed, secret *corev1.Secret) func() {
	ref := certstore.SecretRef{Namespace: secret.Namespace, Name: secret.Name}
	if !f.backend {
		cert, problem := translate.Certificate(secret)
		return func() {
			s.certs.SetSecret(ref, cert, problem)
			s.told.SecretDelivered(secret, cert)
		}
	}
	c, problem := translate.Credentials(secret)
	return func() { s.setBackend(wish{ref, true}, c, problem) }
}

// missing takes the news that there is no such Secret. Called with mu held.
func (s *secrets) missing(w wish) {
	if !w.backend {
		s.certs.DeleteSecret(w.SecretRef)
		s.told.SecretAbsent(w.SecretRef, true)
		return
	}
	s.setBackend(w, nil, "it does not exist")
}

// useless takes the news that a Secret cannot be had. Called with mu held.
func (s *secrets) useless(w wish, why string) {
	if !w.backend {
		s.certs.SetSecret(w.SecretRef, nil, why)
		s.told.SecretAbsent(w.SecretRef, false)
		return
	}
	s.setBackend(w, nil, why)
}

// forget drops what is known of a Secret that nobody wants any more, or that
// has to be looked for by name. Called with mu held.
func (s *secrets) forget(w wish) {
	if !w.backend {
		s.certs.DeleteSecret(w.SecretRef)
		s.told.SecretForgotten(w.SecretRef)
		return
	}
	delete(s.backends, upstream.SecretRef(w.SecretRef))
	s.pools.SetCredentials(upstream.SecretRef(w.SecretRef), nil)
}

func (s *secrets) setBackend(w wish, c *upstream.Credentials, why string) {
	ref := upstream.SecretRef(w.SecretRef)
	if last := s.pools.Credentials(ref); c == nil || last == nil || !c.Equal(last) {
		s.pools.SetCredentials(ref, c)
	}
	s.backends[ref] = why
	for ing, wishes := range s.byIngress {
		for _, other := range wishes {
			if other == w {
				s.onBackend(ing)
			}
		}
	}
}

// useOf says why a Secret for backends is of no use; empty: it is of use, or
// nobody knows yet.
func (s *secrets) useOf(ref upstream.SecretRef) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backends[ref]
}
