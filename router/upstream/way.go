package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/portico-ingress/portico/router/policy"
)

// way is how an endpoint is spoken to. Connections are shared by everybody who
// speaks the same way. Comparable; the zero value is HTTP/1.1 in plaintext.
type way struct {
	protocol    policy.Protocol // never ProtocolDefault but in the zero value
	name        string          // of TLS
	credentials *Credentials    // of TLS; nil: none
	verify      bool
}

// scheme is what a request says about how it came, to an HTTP/2 backend.
func (w *way) scheme() string {
	if w.protocol.Secure() {
		return "https"
	}
	return "http"
}

// Settle says what is spoken to the endpoints of a pool in state s for a route
// that wants it as b says, and whether the backend is verified; credentials are
// what b.Secret holds, nil if that is of no use. why is not empty if nothing may
// be sent, since the backend must be verified and cannot be.
func Settle(s *State, b *policy.Backend, credentials *Credentials, require bool) (protocol policy.Protocol, verify bool, why string) {
	protocol = b.Protocol.Or(s.Protocol).Or(policy.HTTP)
	if !protocol.Secure() {
		if b.Verify == policy.On {
			why = "the backend is to be verified, and " + protocol.String() + " has no TLS to verify it by"
		}
		return protocol, false, why
	}
	hasCA := credentials != nil && credentials.CA != nil
	verify = hasCA && b.Verify.Or(true)
	switch {
	case b.Secret != "" && credentials == nil:
		why = "the Secret " + b.Secret + " with the CA of the backend cannot be used"
	case b.Verify == policy.On && !hasCA:
		why = "the backend is to be verified, and no CA is given"
	case !verify && require:
		why = "the backend would not be verified, which is required here"
	}
	return protocol, verify, why
}

// way settles how a request goes to the pool.
func (p *Pool) way(l *live, b *policy.Backend) (way, *Error) {
	var credentials *Credentials
	if b.Secret != "" {
		credentials = p.reg.Credentials(SecretRef{p.key.Namespace, b.Secret})
	}
	protocol, verify, why := Settle(l.state, b, credentials, p.reg.opts.RequireVerification)
	switch {
	case why != "":
		return way{}, &Error{Kind: Unverified, Err: errors.New(why)}
	case protocol == policy.HTTP:
		return way{}, nil
	case !protocol.Secure():
		return way{protocol: protocol}, nil
	}
	w := way{protocol: protocol, name: b.Name, credentials: credentials, verify: verify}
	if w.name == "" && len(l.state.Names) > 0 {
		w.name = l.state.Names[0]
	}
	return w, nil
}

// tlsConfig makes the configuration of all connections that go this way. names
// are the Service's, one of which a certificate must have if the way names the
// first of them.
func (w *way) tlsConfig(names []string) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: w.name, NextProtos: []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(16),
		// Certificates are verified below, against several names; or, as
		// ingress-nginx does without a CA, not at all.
		InsecureSkipVerify: true,
	}
	if w.protocol.HTTP2() {
		c.NextProtos = []string{"h2"}
	}
	if w.credentials != nil && w.credentials.Certificate != nil {
		c.Certificates = []tls.Certificate{*w.credentials.Certificate}
	}
	if len(names) == 0 || names[0] != w.name {
		names = []string{w.name}
	}
	verify, roots, h2 := w.verify, (*x509.CertPool)(nil), w.protocol.HTTP2()
	if verify {
		roots = w.credentials.CA
	}
	c.VerifyConnection = func(s tls.ConnectionState) error { // also of resumed sessions
		if h2 && s.NegotiatedProtocol != "h2" {
			return errors.New("the backend does not speak HTTP/2 (it does not choose h2 by ALPN)")
		}
		if !verify {
			return nil
		}
		return verifyChain(s.PeerCertificates, roots, names)
	}
	return c
}

// verifyChain demands a certificate that leads to roots and has one of names.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, names []string) error {
	if len(chain) == 0 {
		return errors.New("the backend shows no certificate")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	var err error
	for _, name := range names {
		if err = chain[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
}
