package certstore

import (
	"bytes"
	"crypto/tls"

	"github.com/portico-ingress/portico/router/view"
)

// DefaultPolicy is the name of the only TLS policy so far: no client
// certificates, TLS 1.2 and 1.3.
const DefaultPolicy = ""

// ServerConfig returns the long-lived TLS configuration of a policy, with the
// certificates of the store. There is one for each policy: its ticket keys are
// its own, so that a session made under one policy is never resumed under
// another. A session is resumed only for the server name that it was made for.
func (s *Store) ServerConfig(policy string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// For TLS 1.2; AEAD only (RFC 9325 §4.2). TLS 1.3 has no others.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.Select(ServerName(hello.ServerName)).Certificate.TLS, nil
		},
	}
	bindSessions(cfg, policy)
	return cfg
}

// ServerName returns the canonical form of an SNI host, "" if it is none.
func ServerName(sni string) string {
	host, err := view.CanonicalHost(sni)
	if err != nil {
		return ""
	}
	return host
}

// bindSessions writes policy and server name into every ticket and refuses
// tickets in which they differ: crypto/tls itself compares neither.
func bindSessions(cfg *tls.Config, policy string) {
	mark := func(cs tls.ConnectionState) []byte {
		return []byte("portico session\x00" + policy + "\x00" + ServerName(cs.ServerName))
	}
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ss.Extra = append(ss.Extra, mark(cs))
		return cfg.EncryptTicket(cs, ss)
	}
	cfg.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := cfg.DecryptTicket(identity, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		want := mark(cs)
		for _, extra := range ss.Extra {
			if bytes.Equal(extra, want) {
				return ss, nil
			}
		}
		return nil, nil // a full handshake, not an error
	}
}
