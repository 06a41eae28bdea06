package acme

import (
	"crypto/tls"
	"errors"

	"github.com/mholt/acmez/v3"

	"github.com/portico-ingress/portico/router/view"
)

// ServerConfig is a tls.Config's GetConfigForClient. It answers clients that
// offer nothing but acme-tls/1, as validating servers do (RFC 8737 §3), with the
// certificate of their challenge, and leaves all others to the listener's own
// configuration.
func (t *Tokens) ServerConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acmez.ACMETLS1Protocol {
		return nil, nil
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{acmez.ACMETLS1Protocol},
		SessionTicketsDisabled: true,
		GetCertificate:         t.challengeCertificate,
	}, nil
}

var errNoChallenge = errors.New("no TLS-ALPN-01 challenge is open for this server name")

func (t *Tokens) challengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host, err := view.CanonicalHost(hello.ServerName)
	if err != nil {
		return nil, errNoChallenge
	}
	if c := t.Certificate(hello.Context(), host); c != nil {
		return c, nil
	}
	return nil, errNoChallenge
}
