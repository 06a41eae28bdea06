package acme

import (
	"crypto/x509"
	"fmt"
	"time"
)

// LocalIssuer is the name of the issuer that needs no configuration.
const LocalIssuer = "local"

// Local returns the issuer for one's own machine: a CA of our own for localhost
// and names below it, which anybody may use. Trusting it cannot harm traffic to
// any real host. Portico never adds it to a trust store.
func Local() *Issuer {
	i := &Issuer{Name: LocalIssuer, Suffixes: []string{"localhost"}, Anybody: true}
	i.complete()
	return i
}

// With returns the issuers and one more, which is nobody's default. s may be nil.
func (s *Issuers) With(i *Issuer) (*Issuers, error) {
	out := &Issuers{byName: map[string]*Issuer{i.Name: i}}
	if s == nil {
		return out, nil
	}
	if _, taken := s.byName[i.Name]; taken {
		return nil, fmt.Errorf("the name of issuer %q is that of the one that is built in; choose another", i.Name)
	}
	out.Default = s.Default
	for name, other := range s.byName {
		out.byName[name] = other
	}
	return out, nil
}

// IssueOnce has a CA of the moment issue a certificate, whose key nobody has: it
// shows what the issuer's own would be like.
func IssueOnce(i *Issuer, names []string, now time.Time) (chain, key []byte, err error) {
	if key, err = i.newKey(); err != nil {
		return nil, nil, err
	}
	signer, err := parseKey(key)
	if err != nil {
		return nil, nil, err
	}
	ca, err := newCA(i, now)
	if err != nil {
		return nil, nil, err
	}
	chain, err = ca.issue(&x509.CertificateRequest{DNSNames: names, PublicKey: signer.Public()}, i.Lifetime, now)
	return chain, key, err
}
