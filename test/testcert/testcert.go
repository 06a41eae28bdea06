// Package testcert makes certificates for tests: a CA per test, and leaves of
// every kind that Portico must serve.
package testcert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// CA signs certificates for one test.
type CA struct {
	Cert *x509.Certificate
	key  crypto.Signer
	tb   testing.TB
}

// Kind is the kind of a leaf's key.
type Kind int

// The kinds of keys that kubernetes.io/tls Secrets hold in practice.
const (
	ECDSA Kind = iota
	RSA
	Ed25519
)

// New makes a CA.
func New(tb testing.TB) *CA {
	tb.Helper()
	key := newKey(tb, ECDSA)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca := &CA{key: key, tb: tb}
	ca.Cert = ca.sign(template, template, key.Public())
	return ca
}

// Pool returns a pool that trusts the CA.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return pool
}

// KeyPEM returns the CA's own key, for a CA inside a cluster.
func (ca *CA) KeyPEM() []byte {
	ca.tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return encode("PRIVATE KEY", der)
}

// Leaf returns a PEM chain (leaf and CA) and key for the names, valid from an
// hour ago for a year.
func (ca *CA) Leaf(names ...string) (certPEM, keyPEM []byte) {
	return ca.LeafOf(ECDSA, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0), names...)
}

// LeafOf returns a leaf with the given kind of key and time of validity.
func (ca *CA) LeafOf(kind Kind, from, to time.Time, names ...string) (certPEM, keyPEM []byte) {
	ca.tb.Helper()
	key := newKey(ca.tb, kind)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		ca.tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test leaf"},
		NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	leaf := ca.sign(template, ca.Cert, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return append(encode("CERTIFICATE", leaf.Raw), encode("CERTIFICATE", ca.Cert.Raw)...), encode("PRIVATE KEY", der)
}

func (ca *CA) sign(template, parent *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	ca.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return cert
}

func newKey(tb testing.TB, kind Kind) crypto.Signer {
	tb.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case RSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// PEM encodes a certificate.
func PEM(c *x509.Certificate) []byte { return encode("CERTIFICATE", c.Raw) }

// Parse returns the first certificate of a PEM chain.
func Parse(tb testing.TB, chain []byte) *x509.Certificate {
	tb.Helper()
	block, _ := pem.Decode(chain)
	if block == nil {
		tb.Fatal("no PEM block")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func encode(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}
