package acme

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"go.yaml.in/yaml/v3"

	"github.com/portico-ingress/portico/router/view"
)

// Issuers are the configured issuers. The zero value has none. Never written
// after ReadIssuers.
type Issuers struct {
	// Default is the issuer of those who ask for none by name; nil: there is
	// none.
	Default *Issuer
	byName  map[string]*Issuer
}

// Get returns the issuer of a name; "" is the default one.
func (s *Issuers) Get(name string) (*Issuer, bool) {
	if name == "" {
		return s.Default, s.Default != nil
	}
	i, ok := s.byName[name]
	return i, ok
}

// Names returns the names of all issuers, sorted.
func (s *Issuers) Names() []string { return slices.Sorted(maps.Keys(s.byName)) }

// Config is the file of issuers, as a user writes it.
type Config struct {
	// Default is the issuer of those who ask for none by name; empty: there
	// is none, unless only one issuer is configured.
	Default string         `yaml:"default"`
	Issuers []IssuerConfig `yaml:"issuers"`
}

// IssuerConfig is one issuer. Secrets are in files that it names, never in
// the configuration itself.
type IssuerConfig struct {
	Name string `yaml:"name"`
	// CA makes it a CA of our own instead of an ACME server.
	CA        bool   `yaml:"ca"`
	Directory string `yaml:"directory"`
	Staging   string `yaml:"staging"`
	Email     string `yaml:"email"`
	EAB       struct {
		KeyID   string `yaml:"keyID"`
		KeyFile string `yaml:"keyFile"` // the MAC key in base64url, as the CA shows it
	} `yaml:"eab"`
	CABundle      string        `yaml:"caBundle"`
	Profile       string        `yaml:"profile"`
	PreferredRoot string        `yaml:"preferredRoot"`
	KeyType       string        `yaml:"keyType"`
	Challenges    []string      `yaml:"challenges"`
	DNS           *DNSConfig    `yaml:"dns"`
	Namespaces    []string      `yaml:"namespaces"`
	DNSSuffixes   []string      `yaml:"dnsSuffixes"`
	Timeout       time.Duration `yaml:"timeout"`  // default: 5m
	Lifetime      time.Duration `yaml:"lifetime"` // of certificates of a CA of our own; default: 720h
}

// DNSConfig says how dns-01 challenges are published.
type DNSConfig struct {
	Provider string `yaml:"provider"`
	// Settings are the provider's own.
	Settings           map[string]string `yaml:"settings"`
	Resolvers          []string          `yaml:"resolvers"`
	Delegate           string            `yaml:"delegate"`
	PropagationTimeout time.Duration     `yaml:"propagationTimeout"`
}

// providers are the DNS providers by name. Any libdns provider that appends
// and deletes records does: another one is a line here.
var providers = map[string]func(settings map[string]string) (certmagic.DNSProvider, error){
	"rfc2136": func(s map[string]string) (certmagic.DNSProvider, error) {
		if err := onlySettings(s, "server", "keyName", "algorithm", "keyFile"); err != nil {
			return nil, err
		}
		secret, err := secretFile(s["keyFile"])
		if err != nil {
			return nil, err
		}
		return NewRFC2136(s["server"], s["keyName"], s["algorithm"], secret)
	},
}

func onlySettings(s map[string]string, known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if !slices.Contains(known, key) {
			return fmt.Errorf("setting %q does not exist; there are %s", key, strings.Join(known, ", "))
		}
	}
	return nil
}

// ParseConfig reads the file of issuers. One that lists none is a mistake.
func ParseConfig(text []byte) (*Config, error) {
	c := new(Config)
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, plain(err)
	}
	if len(c.Issuers) == 0 {
		return nil, errors.New("it lists no issuer; give at least one under issuers, or leave the file out")
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one YAML document; put all issuers into the first")
	}
	return c, nil
}

// kinds are what the parser calls by the names of Go's types.
var kinds = strings.NewReplacer(
	"[]acme.IssuerConfig", "a list of issuers", "acme.IssuerConfig", "an issuer, which has keys such as name", "acme.Config", "keys such as issuers",
	"acme.DNSConfig", "keys such as provider", "map[string]string", "keys with text", "[]string", "a list of text",
	"time.Duration", "a duration such as 5m", "string", "text", "bool", "true or false", "!!str", "text", "!!seq", "a list", "!!map", "keys", "!!int", "the number", "!!bool", "",
)

var (
	unknownKey = regexp.MustCompile(`^(line \d+): field (.*) not found in type .*$`)
	otherKind  = regexp.MustCompile(`^(line \d+): cannot unmarshal (\S+)( .*)? into (.*)$`)
	inline     = regexp.MustCompile(`struct \{.*\}`)
)

// plain says in the words of the file what the parser says in those of Go.
func plain(err error) error {
	var faults *yaml.TypeError
	if !errors.As(err, &faults) {
		return err
	}
	var errs []error
	for _, text := range faults.Errors {
		if m := unknownKey.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s: there is no key %q here", m[1], m[2])
		} else if m := otherKind.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s: %s%s is not %s", m[1], kinds.Replace(m[2]), m[3], kinds.Replace(inline.ReplaceAllString(m[4], "keys with values")))
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// Open reads the files that the configuration names and returns every
// fault at once.
func (c *Config) Open() (*Issuers, error) {
	s := &Issuers{byName: make(map[string]*Issuer)}
	var errs []error
	for n := range c.Issuers {
		in := &c.Issuers[n]
		issuer, err := in.open()
		switch _, twice := s.byName[in.Name]; {
		case err != nil:
			errs = append(errs, fmt.Errorf("issuer %q: %w", in.Name, err))
		case twice:
			errs = append(errs, fmt.Errorf("issuer %q is there twice", in.Name))
		default:
			s.byName[in.Name] = issuer
		}
	}
	if c.Default == "" && len(c.Issuers) == 1 {
		s.Default = s.byName[c.Issuers[0].Name]
	}
	if c.Default != "" {
		if s.Default = s.byName[c.Default]; s.Default == nil && len(errs) == 0 {
			errs = append(errs, fmt.Errorf("the default issuer %q is not among the issuers", c.Default))
		}
	}
	return s, errors.Join(errs...)
}

func (in *IssuerConfig) open() (*Issuer, error) {
	i := &Issuer{
		Name: in.Name, Directory: in.Directory, Staging: in.Staging, Email: strings.ToLower(in.Email), Profile: in.Profile,
		PreferredRoot: in.PreferredRoot, KeyType: in.KeyType, Challenges: in.Challenges, Namespaces: in.Namespaces,
		Timeout: in.Timeout, Lifetime: in.Lifetime,
	}
	i.complete()
	return i, errors.Join(in.check(), in.ofOthers(), in.suffixes(i), in.eab(i), in.roots(i), in.dns(i))
}

func (in *IssuerConfig) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case in.Name == "":
		fail("name is missing")
	case strings.Trim(in.Name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || len(in.Name) > 63:
		fail(`name may have lower-case letters, digits, "-" and "." only, 63 at most`)
	}
	switch {
	case in.CA && (in.Directory != "" || in.Staging != ""):
		fail("ca and directory exclude each other")
	case !in.CA && in.Directory == "":
		fail("directory is missing: the URL of an ACME server, or ca: true for a CA of our own")
	}
	for _, d := range []struct{ key, url string }{{"directory", in.Directory}, {"staging", in.Staging}} {
		switch parsed, err := url.Parse(d.url); {
		case err == nil && parsed.User != nil: // it would be in logs and Events
			fail("%s %s has a name or a password in it; ACME has no use for them", d.key, parsed.Redacted())
		case d.url != "" && !isDirectory(d.url):
			fail("%s %q is not an https URL; http is for servers on this machine only", d.key, d.url)
		}
	}
	if _, err := mail.ParseAddress(in.Email); in.Email != "" && err != nil {
		fail("email %q is not an address", in.Email)
	}
	if _, ok := keyTypes[in.KeyType]; in.KeyType != "" && !ok {
		fail("keyType %q is not one of %s", in.KeyType, strings.Join(slices.Sorted(maps.Keys(keyTypes)), ", "))
	}
	for _, c := range in.Challenges {
		if !slices.Contains([]string{HTTP01, TLSALPN01, DNS01}, c) {
			fail("challenge %q is not %s, %s or %s", c, HTTP01, TLSALPN01, DNS01)
		}
	}
	if slices.Contains(in.Challenges, DNS01) && in.DNS == nil {
		fail("challenge dns-01 needs dns: the provider that publishes it")
	}
	if in.Timeout != 0 && in.Timeout < minTimeout {
		fail("timeout %v is less than %v, which an order may need; the default is %v", in.Timeout, minTimeout, defaultTimeout)
	}
	if in.Lifetime != 0 && (in.Lifetime < minLifetime || in.Lifetime > maxLifetime) {
		fail("lifetime %v is not between %v and %v; the default is %v", in.Lifetime, minLifetime, maxLifetime, defaultLifetime)
	}
	return errors.Join(errs...)
}

const (
	defaultTimeout  = 5 * time.Minute
	minTimeout      = 10 * time.Second
	defaultLifetime = 30 * 24 * time.Hour
	minLifetime     = 5 * time.Minute
	maxLifetime     = 180 * 24 * time.Hour // shorter than a CA is known before it signs
)

// isDirectory reports whether a URL may be that of an ACME server (RFC 8555 §6.1).
// What does not leave the machine needs no TLS.
func isDirectory(u string) bool {
	parsed, err := url.Parse(u)
	if err != nil || parsed.Hostname() == "" {
		return false
	}
	addr, _ := netip.ParseAddr(parsed.Hostname())
	return parsed.Scheme == "https" || parsed.Scheme == "http" && (addr.IsLoopback() || parsed.Hostname() == "localhost")
}

// ofOthers reports settings that an issuer of this kind does not heed.
func (in *IssuerConfig) ofOthers() error {
	if !in.CA {
		if in.Lifetime != 0 {
			return errors.New("lifetime is for a CA of our own; an ACME server decides itself, or by its profile")
		}
		return nil
	}
	var without []string
	for key, given := range map[string]bool{
		"email": in.Email != "", "eab": in.EAB.KeyID+in.EAB.KeyFile != "", "caBundle": in.CABundle != "", "profile": in.Profile != "",
		"preferredRoot": in.PreferredRoot != "", "challenges": len(in.Challenges) > 0, "dns": in.DNS != nil, "timeout": in.Timeout != 0,
	} {
		if given {
			without = append(without, key)
		}
	}
	if len(without) == 0 {
		return nil
	}
	slices.Sort(without)
	return fmt.Errorf("%s: a CA of our own has no use for it; leave it out, or ca", strings.Join(without, ", "))
}

func (in *IssuerConfig) suffixes(i *Issuer) error {
	for _, s := range in.DNSSuffixes {
		host, err := view.CanonicalHost(strings.TrimPrefix(strings.TrimPrefix(s, "*"), "."))
		if err != nil || host == "" {
			return fmt.Errorf("DNS suffix %q is not a domain", s)
		}
		i.Suffixes = append(i.Suffixes, host)
	}
	return nil
}

func (in *IssuerConfig) eab(i *Issuer) error {
	if in.EAB.KeyID == "" && in.EAB.KeyFile == "" {
		return nil
	}
	if in.EAB.KeyID == "" || in.EAB.KeyFile == "" {
		return errors.New("eab needs both keyID and keyFile")
	}
	key, err := secretFile(in.EAB.KeyFile)
	if err != nil {
		return fmt.Errorf("eab: %w", err)
	}
	key = strings.TrimRight(key, "=")
	if _, err := base64.RawURLEncoding.DecodeString(key); err != nil { // the error says where, and no more
		return fmt.Errorf("eab: the key in %s is not base64url, as the CA shows it: %w", in.EAB.KeyFile, err)
	}
	i.EAB = &EAB{KeyID: in.EAB.KeyID, MACKey: key}
	return nil
}

func (in *IssuerConfig) roots(i *Issuer) error {
	if in.CABundle == "" {
		return nil
	}
	text, err := os.ReadFile(in.CABundle)
	if err != nil {
		return fmt.Errorf("caBundle: %w", err)
	}
	if i.Roots, err = x509.SystemCertPool(); err != nil {
		i.Roots = x509.NewCertPool()
	}
	if !i.Roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("caBundle %s contains no certificate", in.CABundle)
	}
	return nil
}

func (in *IssuerConfig) dns(i *Issuer) error {
	if in.DNS == nil {
		return nil
	}
	make, ok := providers[in.DNS.Provider]
	if !ok {
		return fmt.Errorf("dns: provider %q is not one of %s", in.DNS.Provider, strings.Join(slices.Sorted(maps.Keys(providers)), ", "))
	}
	provider, err := make(in.DNS.Settings)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	i.DNS = &DNS{Provider: provider, Resolvers: in.DNS.Resolvers, Delegate: in.DNS.Delegate, PropagationTimeout: in.DNS.PropagationTimeout}
	return nil
}

// secretFile reads a file that holds one secret.
func secretFile(name string) (string, error) {
	if name == "" {
		return "", errors.New("the file with the key is missing")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return secret, nil
}
