package certstore

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Certificate is a parsed chain with its key. Never written after Parse.
type Certificate struct {
	// TLS is what crypto/tls serves; its Leaf is set.
	TLS tls.Certificate
	// Leaf is the first certificate of the chain.
	Leaf *x509.Certificate
	// Source says where the certificate comes from if not from the Secret that
	// it is served for, e.g. "issuer local"; empty otherwise.
	Source string
	// names are the leaf's DNS names and addresses, in the forms that
	// Covers compares.
	exact     map[string]struct{}
	wildcards map[string]struct{} // ".example.com" for "*.example.com"
}

// Parse reads a PEM chain and its PEM key as a kubernetes.io/tls Secret holds
// them. Errors say what is wrong in words for the Secret's owner and never
// contain key material.
func Parse(certPEM, keyPEM []byte) (*Certificate, error) {
	chain, err := parseChain(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if !matches(leaf.PublicKey, key) {
		return nil, errors.New("tls.key does not belong to the first certificate in tls.crt")
	}
	c := &Certificate{TLS: tls.Certificate{PrivateKey: key, Leaf: leaf}, Leaf: leaf}
	for _, x := range chain {
		c.TLS.Certificate = append(c.TLS.Certificate, x.Raw)
	}
	c.indexNames()
	return c, nil
}

// maxChain bounds the work that a hostile Secret can cause.
const maxChain = 16

func parseChain(data []byte) ([]*x509.Certificate, error) {
	if len(data) == 0 {
		return nil, errors.New("tls.crt is missing or empty")
	}
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if len(chain) == maxChain {
			return nil, fmt.Errorf("tls.crt has more than %d certificates", maxChain)
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in tls.crt cannot be parsed: %w", len(chain)+1, err)
		}
		chain = append(chain, x)
	}
	if len(chain) == 0 {
		return nil, errors.New("tls.crt contains no PEM block of type CERTIFICATE")
	}
	return chain, nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	if len(data) == 0 {
		return nil, errors.New("tls.key is missing or empty")
	}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("tls.key contains no PEM block of a private key")
		}
		if block.Type != "PRIVATE KEY" && !strings.HasSuffix(block.Type, " PRIVATE KEY") {
			continue
		}
		if strings.HasPrefix(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "" {
			return nil, errors.New("tls.key is encrypted; store the key without a passphrase")
		}
		return parseKeyDER(block.Bytes)
	}
}

func parseKeyDER(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, errors.New("tls.key is of a kind that cannot sign")
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("tls.key is not a PKCS #8, PKCS #1 or SEC 1 private key")
}

func matches(pub crypto.PublicKey, key crypto.Signer) bool {
	p, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(pub)
}

func (c *Certificate) indexNames() {
	c.exact, c.wildcards = map[string]struct{}{}, map[string]struct{}{}
	for _, name := range c.Leaf.DNSNames {
		name = strings.TrimSuffix(strings.ToLower(name), ".")
		if suffix, ok := strings.CutPrefix(name, "*"); ok && strings.HasPrefix(suffix, ".") {
			c.wildcards[suffix] = struct{}{}
		} else {
			c.exact[name] = struct{}{}
		}
	}
	for _, ip := range c.Leaf.IPAddresses {
		name := ip.String()
		if strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
		c.exact[name] = struct{}{}
	}
}

// Covers reports whether the certificate is valid for a canonical host (RFC
// 9525 §6.3: an exact name, or a wildcard for the whole first label). A host
// "*.example.com" is covered by the same wildcard only. The time is not looked
// at.
func (c *Certificate) Covers(host string) bool {
	if _, ok := c.exact[host]; ok {
		return true
	}
	i := strings.IndexByte(host, '.')
	if i <= 0 || host[0] == '[' {
		return false
	}
	_, ok := c.wildcards[host[i:]]
	return ok
}

// WithStaple returns the certificate with an OCSP response (RFC 6066 §8). The
// certificate itself may be served already and stays as it is.
func (c *Certificate) WithStaple(response []byte) *Certificate {
	stapled := *c
	stapled.TLS.OCSPStaple = response
	return &stapled
}

// Names returns the DNS names and addresses of the certificate as it spells
// them.
func (c *Certificate) Names() []string {
	names := append([]string(nil), c.Leaf.DNSNames...)
	for _, ip := range c.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// Validity says in words why the certificate is not valid now; empty if it is.
func (c *Certificate) Validity(now time.Time) string {
	switch {
	case now.Before(c.Leaf.NotBefore):
		return "is not valid before " + c.Leaf.NotBefore.UTC().Format(time.RFC3339)
	case now.After(c.Leaf.NotAfter):
		return "expired at " + c.Leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}
