package translate

import "strings"

// Annotations that ask for certificates.
const (
	// IssuerAnnotation names one of the configured issuers.
	IssuerAnnotation = "portico.dev/issuer"
	// TLSACMEAnnotation asks, with the value "true", for the default issuer.
	TLSACMEAnnotation = "kubernetes.io/tls-acme"
	certManager       = "cert-manager.io"
)

// Wish is what an Ingress says about who gets the certificates of its spec.tls.
type Wish struct {
	// By is the annotation that asks us for certificates; empty: none does.
	By string
	// Issuer is the one that it names; empty: the default one.
	Issuer string
	// CertManager is an annotation of cert-manager. It goes before ours: two
	// that write one Secret would undo each other's work for ever.
	CertManager string
}

// CertificateWish reads the annotations of an Ingress.
func CertificateWish(annotations map[string]string) Wish {
	var w Wish
	for key := range annotations {
		if IsCertManager(key) && (w.CertManager == "" || key < w.CertManager) {
			w.CertManager = key
		}
	}
	issuer, named := annotations[IssuerAnnotation]
	switch {
	case named:
		w.By, w.Issuer = IssuerAnnotation, strings.TrimSpace(issuer)
	case strings.TrimSpace(annotations[TLSACMEAnnotation]) == "true":
		w.By = TLSACMEAnnotation
	}
	return w
}

// IsCertManager reports whether an annotation is one of cert-manager's.
func IsCertManager(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	return ok && (domain == certManager || strings.HasSuffix(domain, "."+certManager))
}
