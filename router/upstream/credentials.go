package upstream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// SecretRef names where Credentials come from. Comparable.
type SecretRef struct{ Namespace, Name string }

// String returns "namespace/name".
func (r SecretRef) String() string { return r.Namespace + "/" + r.Name }

// Credentials are what backends are verified against, and what they are shown.
// Never written once handed to a Registry.
type Credentials struct {
	// CA are the roots that a backend's certificate must lead to; nil: none
	// is given.
	CA *x509.CertPool
	// Certificate is shown to backends that ask for one; nil: none is.
	Certificate *tls.Certificate
}

// ParseCredentials reads a CA bundle and a certificate with its key, each in PEM
// and each empty if there is none; there must be one of the two.
func ParseCredentials(ca, cert, key []byte) (*Credentials, error) {
	c := new(Credentials)
	if len(ca) > 0 {
		pool, err := parseCA(ca)
		if err != nil {
			return nil, fmt.Errorf("ca.crt: %w", err)
		}
		c.CA = pool
	}
	if len(cert) > 0 || len(key) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("tls.crt and tls.key: %w", err)
		}
		c.Certificate = &pair
	}
	if c.CA == nil && c.Certificate == nil {
		return nil, errors.New("it has neither ca.crt nor tls.crt and tls.key")
	}
	return c, nil
}

// Equal reports whether both hold the same.
func (c *Credentials) Equal(o *Credentials) bool {
	if (c.CA == nil) != (o.CA == nil) || c.CA != nil && !c.CA.Equal(o.CA) || (c.Certificate == nil) != (o.Certificate == nil) {
		return false
	}
	return c.Certificate == nil || slices.EqualFunc(c.Certificate.Certificate, o.Certificate.Certificate, bytes.Equal)
}

// parseCA reads every certificate of a bundle. One that cannot be read makes
// the whole unusable, rather than a part of what was meant.
func parseCA(bundle []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for rest := bytes.TrimSpace(bundle); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("something in it is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a block of it is of type %q, not CERTIFICATE", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(cert)
		n++
		rest = bytes.TrimSpace(rest)
	}
	if n == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return pool, nil
}

// SetCredentials replaces what a Secret holds; nil: it is missing or of no use,
// and routes that name it answer nothing but errors. Connections that were made
// with what it held before carry no further request.
func (r *Registry) SetCredentials(ref SecretRef, c *Credentials) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *r.credentials.Load()
	before := old[ref]
	if before == c {
		return
	}
	next := make(map[SecretRef]*Credentials, len(old)+1)
	for k, v := range old {
		if k != ref {
			next[k] = v
		}
	}
	if c != nil {
		next[ref] = c
	}
	r.credentials.Store(&next)
	if before == nil {
		return
	}
	for _, a := range r.addrs {
		a.retireLanes(func(w *way) bool { return w.credentials == before })
	}
}

// Credentials returns what a Secret holds, nil if that is nothing of use.
func (r *Registry) Credentials(ref SecretRef) *Credentials { return (*r.credentials.Load())[ref] }
