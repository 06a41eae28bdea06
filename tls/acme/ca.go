package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"time"
)

const (
	caLifetime = 10 * 365 * 24 * time.Hour
	// caRemake is how long before its end the CA is made anew.
	caRemake = 365 * 24 * time.Hour
	// caSkew allows for clocks that are behind ours.
	caSkew = 5 * time.Minute
)

// internalCA is a CA of our own, whose key lies in the storage.
type internalCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// caKey is where the CA of an issuer is stored: certificate and key in one
// value, so that they always fit.
func caKey(issuer string) string { return "ca/" + issuer + ".pem" }

// openCA returns the CA of an issuer. It is made on first use, under a lock.
func openCA(ctx context.Context, s Storage, i *Issuer, now time.Time) (*internalCA, error) {
	if ca, err := loadCA(ctx, s, i, now); err != nil || ca != nil {
		return ca, err
	}
	held, release, err := s.Hold(ctx, "ca-"+i.Name)
	if err != nil {
		return nil, err
	}
	defer release()
	if ca, err := loadCA(held, s, i, now); err != nil || ca != nil {
		return ca, err
	}
	ca, err := newCA(i, now)
	if err != nil {
		return nil, err
	}
	text, err := ca.encode()
	if err != nil {
		return nil, err
	}
	return ca, s.Store(held, caKey(i.Name), text)
}

// loadCA returns nil if a CA has to be made.
func loadCA(ctx context.Context, s Storage, i *Issuer, now time.Time) (*internalCA, error) {
	text, err := s.Load(ctx, caKey(i.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("the CA of issuer %s in the storage cannot be read", i.Name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the CA of issuer %s in the storage cannot be read: %w", i.Name, err)
	}
	key, err := parseKey(rest)
	if err != nil {
		return nil, fmt.Errorf("the CA of issuer %s in the storage: %w", i.Name, err)
	}
	if now.Add(caRemake).After(cert.NotAfter) {
		return nil, nil
	}
	return &internalCA{cert, key}, nil
}

func newCA(i *Issuer, now time.Time) (*internalCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Portico CA " + i.Name + " " + now.UTC().Format("2006-01-02")},
		NotBefore:             now.Add(-caSkew),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if len(i.Suffixes) > 0 {
		template.PermittedDNSDomainsCritical, template.PermittedDNSDomains = true, i.Suffixes
	}
	cert, err := signCertificate(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &internalCA{cert, key}, nil
}

func (ca *internalCA) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Write(encodeCertificate(ca.cert))
	b.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return b.Bytes(), nil
}

// issue signs a certificate for what a CSR of ours asks for, followed by the
// CA's own, which clients then need not be given apart.
func (ca *internalCA) issue(csr *x509.CertificateRequest, lifetime time.Duration, now time.Time) ([]byte, error) {
	leaf, err := signCertificate(&x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName(csr.DNSNames)},
		DNSNames:              csr.DNSNames,
		NotBefore:             now.Add(-min(caSkew, lifetime/10)),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, ca.cert, csr.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	return append(encodeCertificate(leaf), encodeCertificate(ca.cert)...), nil
}

// commonName is the first name that fits into the field (RFC 5280 §A.1).
func commonName(names []string) string {
	for _, n := range names {
		if len(n) <= 64 {
			return n
		}
	}
	return ""
}

func signCertificate(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
