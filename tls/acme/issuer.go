package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Challenge types (RFC 8555 §8, RFC 8737), as they are configured.
const (
	HTTP01    = "http-01"
	TLSALPN01 = "tls-alpn-01"
	DNS01     = "dns-01"
)

// DefaultKeyType is the kind of key of certificates unless said otherwise.
const DefaultKeyType = "p256"

// Issuer is one configured source of certificates. Never written after
// ReadIssuers.
type Issuer struct {
	Name string
	// Directory is the URL of an ACME server; empty: the CA of our own.
	Directory string
	// Staging, if set, must issue the first certificate for a set of names
	// before Directory is asked; what it issues is thrown away.
	Staging string
	Email   string
	// EAB binds the account to one at the CA (RFC 8555 §7.3.4); may be nil.
	EAB *EAB
	// Roots are trusted for the directory besides the system's; may be nil.
	Roots *x509.CertPool
	// Profile is one of the CA's; may be empty.
	Profile string
	// PreferredRoot is the common name of the root that an alternate chain
	// should lead to; may be empty.
	PreferredRoot string
	KeyType       string
	// Challenges are tried in this order, another with each attempt.
	Challenges []string
	// DNS answers dns-01; nil: there are no wildcards.
	DNS *DNS
	// Namespaces and Suffixes restrict who may use the issuer and for what.
	// Empty: nobody is excluded; for wildcards and dns-01 both must be given.
	Namespaces []string
	Suffixes   []string
	// Anybody tells that every namespace may use it, also for wildcards.
	Anybody bool
	// Timeout bounds one order.
	Timeout time.Duration
	// Lifetime is that of certificates of our own CA.
	Lifetime time.Duration
}

// EAB is an external account binding.
type EAB struct{ KeyID, MACKey string }

// DNS is how dns-01 challenges are published.
type DNS struct {
	Provider  certmagic.DNSProvider
	Resolvers []string
	// Delegate is the name that _acme-challenge of every host points to by
	// CNAME; empty: records are put where they belong.
	Delegate           string
	PropagationTimeout time.Duration
}

// complete fills in what is not configured.
func (i *Issuer) complete() {
	if i.KeyType == "" {
		i.KeyType = DefaultKeyType
	}
	if i.Timeout == 0 {
		i.Timeout = defaultTimeout
	}
	if i.Lifetime == 0 {
		i.Lifetime = defaultLifetime
	}
	if len(i.Challenges) == 0 {
		i.Challenges = []string{HTTP01, TLSALPN01}
	}
}

// Internal reports whether the issuer is a CA of our own.
func (i *Issuer) Internal() bool { return i.Directory == "" }

// Permit returns why a namespace may not have a certificate for names from
// this issuer, nil if it may.
func (i *Issuer) Permit(namespace string, names []string) error {
	if len(i.Namespaces) > 0 && !slices.Contains(i.Namespaces, namespace) {
		return fmt.Errorf("issuer %s may not be used from namespace %s", i.Name, namespace)
	}
	for _, name := range names {
		if !i.For(name) {
			return fmt.Errorf("issuer %s may not be used for %s, but for %s and names below", i.Name, name, strings.Join(i.Suffixes, ", "))
		}
	}
	wildcard := slices.IndexFunc(names, isWildcard)
	if wildcard >= 0 && i.DNS == nil && !i.Internal() {
		return fmt.Errorf("a certificate for %s needs dns-01, and issuer %s has no DNS provider", names[wildcard], i.Name)
	}
	if (wildcard >= 0 || !i.Internal() && slices.Contains(i.Challenges, DNS01)) && !i.Anybody && (len(i.Namespaces) == 0 || len(i.Suffixes) == 0) {
		return fmt.Errorf("issuer %s issues wildcards and by dns-01 only if it lists the namespaces and the DNS suffixes that may use it", i.Name)
	}
	return nil
}

// For reports whether a name is below the suffixes that the issuer is for.
func (i *Issuer) For(name string) bool { return len(i.Suffixes) == 0 || i.suffixed(name) }

func (i *Issuer) suffixed(name string) bool {
	name = strings.TrimPrefix(name, "*.")
	return slices.ContainsFunc(i.Suffixes, func(s string) bool { return name == s || strings.HasSuffix(name, "."+s) })
}

func isWildcard(name string) bool { return strings.HasPrefix(name, "*.") }

// challenge returns the kind of challenge for an attempt: wildcards need DNS,
// for others each attempt tries the next that is configured.
func (i *Issuer) challenge(names []string, attempt int) string {
	if slices.ContainsFunc(names, isWildcard) {
		return DNS01
	}
	return i.Challenges[attempt%len(i.Challenges)]
}

// keyTypes are the kinds of keys that certificates may have.
var keyTypes = map[string]func() (crypto.Signer, error){
	"p256":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	"p384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	"rsa2048": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	"rsa4096": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 4096) },
}

// newKey makes a key in PEM.
func (i *Issuer) newKey() ([]byte, error) {
	key, err := keyTypes[i.KeyType]()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// fits reports whether a key is of the kind that the issuer is configured for.
func (i *Issuer) fits(key crypto.Signer) bool { return keyTypeOf(key) == i.KeyType }

func keyTypeOf(key crypto.Signer) string {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return strings.ToLower(strings.ReplaceAll(k.Curve.Params().Name, "-", ""))
	case *rsa.PrivateKey:
		return fmt.Sprintf("rsa%d", k.N.BitLen())
	case ed25519.PrivateKey:
		return "ed25519"
	}
	return ""
}

var errNoKey = errors.New("there is no usable private key")

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errNoKey
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errNoKey // the parser's error may quote the key
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errNoKey
	}
	return signer, nil
}
