// Package localca is a certificate authority for developing on one's own
// machine. It is made on first use, kept in the user's state folder, and
// constrained to the name localhost and what is below it (RFC 5280 §4.2.1.10),
// so that trusting it cannot harm traffic to any real host. Portico never adds
// it to a trust store.
package localca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// Domain is the only domain that the CA may issue for.
	Domain = "localhost"
	// LeafLifetime is how long an issued certificate is valid.
	LeafLifetime = 30 * 24 * time.Hour
	// RenewBefore is how long before its end a certificate is due to be
	// issued again.
	RenewBefore = 10 * 24 * time.Hour

	lifetime = 3 * 365 * 24 * time.Hour
	// remakeBefore leaves every leaf its full lifetime.
	remakeBefore = 2 * LeafLifetime
	// skew allows for clocks that are behind ours.
	skew = time.Hour
)

// everyAddress is what the CA may not issue for: a constraint on names says
// nothing about certificates for addresses.
var everyAddress = []*net.IPNet{
	{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
	{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
}

// CA issues certificates. It is immutable and safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	now  func() time.Time
}

// Options configure a CA. The zero value is ready to use.
type Options struct {
	// Dir keeps the CA between runs. Default: DefaultDir.
	Dir string
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// New makes a CA that is gone when the process ends: for machines where no
// folder can be written. Only Options.Now is used.
func New(opts Options) (*CA, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of the local CA: %w", err)
	}
	now := opts.Now()
	cert, err := sign(&x509.Certificate{
		Subject:                     pkix.Name{CommonName: "Portico local CA (localhost only)"},
		NotBefore:                   now.Add(-skew),
		NotAfter:                    now.Add(lifetime),
		KeyUsage:                    x509.KeyUsageCertSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{Domain},
		ExcludedIPRanges:            everyAddress,
	}, nil, key, key)
	if err != nil {
		return nil, fmt.Errorf("make the local CA: %w", err)
	}
	return &CA{cert: cert, key: key, now: opts.Now}, nil
}

// Certificate returns the CA's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// File is the path of the CA's certificate in PEM, for curl --cacert and
// browsers. Empty if the CA lives in memory only.
func (ca *CA) File() string { return ca.file }

// Covers reports whether the CA may issue for a host, wildcards included.
func Covers(host string) bool {
	return host == Domain || strings.HasSuffix(host, "."+Domain)
}

// Issue makes a key and a certificate for the hosts, as a kubernetes.io/tls
// Secret would hold them. It refuses hosts that it does not cover.
func (ca *CA) Issue(hosts []string) (certPEM, keyPEM []byte, err error) {
	if len(hosts) == 0 {
		return nil, nil, errors.New("a certificate needs a host")
	}
	if i := slices.IndexFunc(hosts, func(h string) bool { return !Covers(h) }); i >= 0 {
		return nil, nil, fmt.Errorf("the local CA issues for %s and names below it only, not for %q", Domain, hosts[i])
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", hosts[0], err)
	}
	now := ca.now()
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Portico local certificate"}},
		DNSNames:              hosts,
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(LeafLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, ca.cert, key, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %s: %w", hosts[0], err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCert(cert), keyPEM, err
}

// sign fills in the serial number and signs; without a parent the certificate
// signs itself.
func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
