package acme

import (
	"bytes"
	"cmp"
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
	"net"
	"slices"
	"time"
)

const (
	caLifetime = 10 * 365 * 24 * time.Hour
	// caNext is how long before its end the next CA is made, and shown to
	// clients beside it.
	caNext = 365 * 24 * time.Hour
	// caSwitch is how long before its end a CA signs no more: in between,
	// clients get to know the next.
	caSwitch = caNext / 2
	// maxCAs are kept of an issuer.
	maxCAs = 8
	// caSkew allows for clocks that are behind ours.
	caSkew = 5 * time.Minute
	// caEarly is by how much our clock may be behind the one that a CA was
	// made by.
	caEarly = 24 * time.Hour
)

// internalCA is a CA of our own, whose key lies in the storage.
type internalCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// cas are the CAs of an issuer, in the order in which they were made. A clock
// that is wrong adds one; it takes none away, and those that it passed over sign
// again when it is right. So does a change of the issuer's DNS suffixes: what a CA
// is constrained to is part of it.
type cas []*internalCA

// alike reports whether two CAs are constrained to the same.
func (ca *internalCA) alike(suffixes []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(ca.cert.PermittedDNSDomains)), slices.Sorted(slices.Values(suffixes)))
}

// generations returns the CAs of former suffixes, and those of the issuer's. What was
// made for the same ones before there were others is a former one, too: clients may
// have forgotten it.
func (l cas) generations(i *Issuer) (former, own cas) {
	n := len(l)
	for n > 0 && l[n-1].alike(i.Suffixes) {
		n--
	}
	return l[:n], l[n:]
}

// current reports whether a CA is valid now.
func (ca *internalCA) current(now time.Time) bool {
	return now.Before(ca.cert.NotAfter) && !ca.cert.NotBefore.After(now.Add(caEarly))
}

// permits reports whether a CA may sign for all of the names (RFC 5280 §4.2.1.10).
func (ca *internalCA) permits(names []string) bool {
	constrained := Issuer{Suffixes: ca.cert.PermittedDNSDomains}
	return !slices.ContainsFunc(names, func(name string) bool { return !constrained.For(name) })
}

// since is how long clients could have got to know a CA.
func (ca *internalCA) since(now time.Time) time.Duration { return now.Sub(ca.cert.NotBefore) }

// known reports whether clients could have got to know a CA, since every certificate
// has been renewed with it in its ca.crt.
func (ca *internalCA) known(i *Issuer, now time.Time) bool { return ca.since(now) > i.Lifetime }

// signer returns the CA that signs for names now: the oldest that may and is not
// near its end, so that a new one is known by then, else the last that may. Until
// those of new suffixes are known, the last one signs on that is. nil: there is none.
func (l cas) signer(i *Issuer, names []string, now time.Time) *internalCA {
	fits := func(ca *internalCA) bool { return ca.current(now) && ca.permits(names) }
	fresh := func(ca *internalCA) bool { return ca.cert.NotAfter.Sub(now) > caSwitch }
	former, own := l.lasting(i, now).generations(i)
	var before, last *internalCA
	for _, ca := range former {
		if fits(ca) && fresh(ca) && (before == nil || ca.known(i, now)) {
			before = ca
		}
	}
	for _, ca := range own {
		switch {
		case !fits(ca):
		case fresh(ca) && (before == nil || ca.known(i, now)):
			return ca
		default:
			last = ca
		}
	}
	return cmp.Or(before, last)
}

// complete reports whether no CA has to be made now.
func (l cas) complete(i *Issuer, now time.Time) bool {
	_, own := l.generations(i)
	return slices.ContainsFunc(own, func(ca *internalCA) bool { return ca.current(now) && ca.cert.NotAfter.Sub(now) > caNext })
}

// early returns an error if the clock shows a time before any of the CAs was
// made: what they would sign is valid nowhere else.
func (l cas) early(i *Issuer, now time.Time) error {
	if len(l) == 0 || slices.ContainsFunc(l, func(ca *internalCA) bool { return !ca.cert.NotBefore.After(now.Add(caEarly)) }) {
		return nil
	}
	return fmt.Errorf("the CA of issuer %s is valid from %s, and here it is %s: set the clock", i.Name,
		l[0].cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}

// lasting returns the CAs that certificates in use may be of, or will be: those that
// have not ended, and whose place no one of other suffixes took longer ago than any
// certificate lives.
func (l cas) lasting(i *Issuer, now time.Time) cas {
	var out cas
	for n, ca := range l {
		replaced := slices.ContainsFunc(l[n+1:], func(later *internalCA) bool {
			return !later.alike(ca.cert.PermittedDNSDomains) && later.current(now) && later.since(now) > i.Lifetime+maxLifetime
		})
		if now.Before(ca.cert.NotAfter) && !replaced {
			out = append(out, ca)
		}
	}
	return out
}

// roots are what clients should trust, in PEM: the CA that signs, and the others
// that last.
func (l cas) roots(signer *internalCA, i *Issuer, now time.Time) []byte {
	var out []byte
	if signer != nil {
		out = encodeCertificate(signer.cert)
	}
	for _, ca := range l.lasting(i, now) {
		if ca != signer {
			out = append(out, encodeCertificate(ca.cert)...)
		}
	}
	return out
}

// trim returns the CAs that are kept: of too many, those that do not last go first,
// then the oldest.
func (l cas) trim(i *Issuer, now time.Time) cas {
	lasting := l.lasting(i, now)
	for len(l) > maxCAs {
		at := max(0, slices.IndexFunc(l, func(ca *internalCA) bool { return !slices.Contains(lasting, ca) }))
		l = slices.Delete(slices.Clone(l), at, at+1)
	}
	return l
}

// caKey is where the CAs of an issuer are stored: certificates and keys in one
// value, so that they always fit.
func caKey(issuer string) string { return "ca/" + issuer + ".pem" }

// openCA returns the CAs of an issuer, one of which can sign. The first is made on
// first use, the next before it is needed, under a lock; made tells of a next one.
func openCA(ctx context.Context, s Storage, i *Issuer, now time.Time) (list cas, made bool, err error) {
	if list, err = loadCAs(ctx, s, i.Name); err != nil || list.complete(i, now) {
		return list, false, err
	}
	held, release, err := s.Hold(ctx, "ca-"+i.Name)
	if err != nil {
		return nil, false, err
	}
	defer release()
	if list, err = loadCAs(held, s, i.Name); err != nil || list.complete(i, now) {
		return list, false, err
	}
	if err := list.early(i, now); err != nil {
		return nil, false, err
	}
	ca, err := newCA(i, now)
	if err != nil {
		return nil, false, err
	}
	made = len(list) > 0
	list = append(list, ca).trim(i, now)
	text, err := list.encode()
	if err != nil {
		return nil, false, err
	}
	return list, made, s.Store(held, caKey(i.Name), text)
}

// Roots returns what clients should trust of an issuer that is a CA of our own, in
// PEM. The CA is made if there is none.
func Roots(ctx context.Context, s Storage, i *Issuer, now time.Time) ([]byte, error) {
	list, _, err := openCA(ctx, s, i, now)
	if err != nil {
		return nil, err
	}
	return list.roots(list.signer(i, nil, now), i, now), nil
}

// loadCAs returns no CA if none was made.
func loadCAs(ctx context.Context, s Storage, issuer string) (cas, error) {
	text, err := s.Load(ctx, caKey(issuer))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list cas
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("the CA of issuer %s in the storage cannot be read", issuer)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the CA of issuer %s in the storage cannot be read: %w", issuer, err)
		}
		key, err := parseKey(rest)
		if err != nil {
			return nil, fmt.Errorf("the CA of issuer %s in the storage: %w", issuer, err)
		}
		list = append(list, &internalCA{cert, key})
		_, text = pem.Decode(rest)
	}
	return list, nil
}

// everyAddress is what a constrained CA may not sign for.
var everyAddress = []*net.IPNet{
	{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
	{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
}

func newCA(i *Issuer, now time.Time) (*internalCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Portico CA " + i.Name + " " + now.UTC().Format("2006-01-02 15:04:05")},
		NotBefore:             now.Add(-caSkew),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if len(i.Suffixes) > 0 {
		template.PermittedDNSDomainsCritical, template.PermittedDNSDomains = true, i.Suffixes
		template.ExcludedIPRanges = everyAddress // a constraint on names says nothing of addresses
	}
	cert, err := signCertificate(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &internalCA{cert, key}, nil
}

func (l cas) encode() ([]byte, error) {
	var b bytes.Buffer
	for _, ca := range l {
		der, err := x509.MarshalPKCS8PrivateKey(ca.key)
		if err != nil {
			return nil, err
		}
		b.Write(encodeCertificate(ca.cert))
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	return b.Bytes(), nil
}

// issue signs a certificate for what a CSR of ours asks for, followed by the
// CA's own, which clients then need not be given apart. It ends with the CA.
func (ca *internalCA) issue(csr *x509.CertificateRequest, lifetime time.Duration, now time.Time) ([]byte, error) {
	until := now.Add(lifetime)
	if until.After(ca.cert.NotAfter) {
		until = ca.cert.NotAfter
	}
	leaf, err := signCertificate(&x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName(csr.DNSNames)},
		DNSNames:              csr.DNSNames,
		NotBefore:             now.Add(-min(caSkew, lifetime/10)),
		NotAfter:              until,
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
