package folder

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/tls/certstore"
	"github.com/portico-ingress/portico/tls/localca"
)

// LocalCertificates are the certificates of a local CA that stand in for
// Secrets which are not among the manifests. Not safe for concurrent use.
type LocalCertificates struct {
	ca     *localca.CA
	now    func() time.Time
	issued map[certstore.SecretRef]leaf
}

type leaf struct {
	hosts []string
	cert  *certstore.Certificate
}

// NewLocalCertificates returns certificates from ca. now may be nil.
func NewLocalCertificates(ca *localca.CA, now func() time.Time) *LocalCertificates {
	if now == nil {
		now = time.Now
	}
	return &LocalCertificates{ca: ca, now: now, issued: make(map[certstore.SecretRef]leaf)}
}

// Fill adds a certificate to the world for every Secret that spec.tls names
// for hosts below localhost and that does not exist. Those that were issued
// before serve again while hosts and time allow.
func (l *LocalCertificates) Fill(w *translate.World) error {
	var errs []error
	wanted := l.wanted(w)
	maps.DeleteFunc(l.issued, func(ref certstore.SecretRef, _ leaf) bool { return wanted[ref] == nil })
	for ref, hosts := range wanted {
		if old, ok := l.issued[ref]; !ok || !slices.Equal(old.hosts, hosts) || l.nearsEnd(old) {
			cert, err := l.issue(ref, hosts)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			l.issued[ref] = leaf{hosts: hosts, cert: cert}
		}
		w.Certificates[ref] = l.issued[ref].cert
	}
	return errors.Join(errs...)
}

// wanted returns the hosts of each Secret that is not there, sorted.
func (l *LocalCertificates) wanted(w *translate.World) map[certstore.SecretRef][]string {
	wanted := make(map[certstore.SecretRef][]string)
	for _, e := range w.Entries {
		for _, t := range e.Ingress.TLS {
			ref := certstore.SecretRef{Namespace: e.Ingress.Origin.Ref.Namespace, Name: t.Secret}
			if t.Secret == "" || l.exists(w, ref) {
				continue
			}
			for _, host := range t.Hosts {
				if localca.Covers(host) {
					wanted[ref] = append(wanted[ref], host)
				}
			}
		}
	}
	for ref, hosts := range wanted {
		slices.Sort(hosts)
		wanted[ref] = slices.Compact(hosts)
	}
	return wanted
}

// exists reports whether the Secret is among the manifests, usable or not.
func (l *LocalCertificates) exists(w *translate.World, ref certstore.SecretRef) bool {
	cert, ok := w.Certificates[ref]
	_, broken := w.SecretProblems[ref]
	return broken || ok && cert != l.issued[ref].cert
}

func (l *LocalCertificates) issue(ref certstore.SecretRef, hosts []string) (*certstore.Certificate, error) {
	certPEM, keyPEM, err := l.ca.Issue(hosts)
	if err != nil {
		return nil, err
	}
	cert, err := certstore.Parse(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	cert.Source = "local CA, for the missing Secret " + ref.String()
	return cert, nil
}

func (l *LocalCertificates) nearsEnd(old leaf) bool {
	return l.now().Add(localca.RenewBefore).After(old.cert.Leaf.NotAfter)
}

// due reports whether a certificate nears its end.
func (l *LocalCertificates) due() bool {
	for _, old := range l.issued {
		if l.nearsEnd(old) {
			return true
		}
	}
	return false
}
