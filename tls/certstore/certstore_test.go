package certstore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/certstore"
)

func parse(t *testing.T, certPEM, keyPEM []byte) *certstore.Certificate {
	t.Helper()
	c, err := certstore.Parse(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newStore(t *testing.T) *certstore.Store {
	t.Helper()
	s, err := certstore.New(certstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ref(s string) certstore.SecretRef {
	ns, name, _ := strings.Cut(s, "/")
	return certstore.SecretRef{Namespace: ns, Name: name}
}

func claim(host, owner, secret string) certstore.Claim {
	return certstore.Claim{
		Host: host, Owner: owner, TLS: secret != "", Secret: ref(secret),
		Object: diag.Ref{Kind: "Ingress", Namespace: owner, Name: "ing"}, Field: "spec.tls[0]",
	}
}

func TestParseKinds(t *testing.T) {
	ca := testcert.New(t)
	for _, kind := range []testcert.Kind{testcert.ECDSA, testcert.RSA, testcert.Ed25519} {
		certPEM, keyPEM := ca.LeafOf(kind, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), "a.example")
		c := parse(t, certPEM, keyPEM)
		if len(c.TLS.Certificate) != 2 || !c.Covers("a.example") {
			t.Errorf("kind %d: chain of %d, covers %v", kind, len(c.TLS.Certificate), c.Covers("a.example"))
		}
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	sec1, _ := x509.MarshalECPrivateKey(key)
	certPEM, _ := ca.Leaf("a.example")
	if _, err := certstore.Parse(certPEM, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("a SEC 1 key of another certificate: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	ca := testcert.New(t)
	certPEM, keyPEM := ca.Leaf("a.example")
	_, otherKey := ca.Leaf("b.example")
	block := func(typ string) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: []byte("garbage")}) }
	for name, tc := range map[string]struct {
		cert, key []byte
		want      string
	}{
		"no certificate":      {nil, keyPEM, "tls.crt is missing"},
		"no key":              {certPEM, nil, "tls.key is missing"},
		"text":                {[]byte("hello"), keyPEM, "no PEM block of type CERTIFICATE"},
		"key as certificate":  {keyPEM, keyPEM, "no PEM block of type CERTIFICATE"},
		"certificate as key":  {certPEM, certPEM, "no PEM block of a private key"},
		"garbage certificate": {block("CERTIFICATE"), keyPEM, "certificate 1 in tls.crt cannot be parsed"},
		"garbage key":         {certPEM, block("PRIVATE KEY"), "not a PKCS"},
		"encrypted key":       {certPEM, block("ENCRYPTED PRIVATE KEY"), "encrypted"},
		"mismatch":            {certPEM, otherKey, "does not belong"},
		"endless chain":       {[]byte(strings.Repeat(string(certPEM), 20)), keyPEM, "more than 16"},
		"a megabyte of PEM":   {[]byte(strings.Repeat("-----BEGIN CERTIFICATE-----\n", 40000)), keyPEM, "no PEM block"},
	} {
		if _, err := certstore.Parse(tc.cert, tc.key); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
	}
}

func TestCovers(t *testing.T) {
	certPEM, keyPEM := testcert.New(t).Leaf("Shop.Example", "*.wild.example", "192.0.2.1", "2001:db8::1")
	c := parse(t, certPEM, keyPEM)
	for host, want := range map[string]bool{
		"shop.example": true, "a.wild.example": true, "*.wild.example": true, "192.0.2.1": true, "[2001:db8::1]": true,
		"wild.example": false, "a.b.wild.example": false, "*.example": false, "x.shop.example": false, "": false, "[::1]": false,
	} {
		if got := c.Covers(host); got != want {
			t.Errorf("Covers(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestSelect(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	for name, hosts := range map[string][]string{
		"a/exact": {"exact.example"}, "a/wild": {"*.example"}, "a/other": {"other.test"}, "a/default": {"default.test"}, "b/b": {"sub.b.test"},
	} {
		certPEM, keyPEM := ca.Leaf(hosts...)
		s.SetSecret(ref(name), parse(t, certPEM, keyPEM), "")
	}
	s.SetSecret(ref("a/broken"), nil, "tls.key is missing or empty")
	s.SetClaims([]certstore.Claim{
		claim("exact.example", "a", "a/exact"), claim("*.example", "a", "a/wild"), claim("plain.example", "a", ""),
		claim("foreign.example", "b", ""), claim("mismatch.test", "a", "a/other"), claim("broken.test", "a", "a/broken"),
		claim("missing.test", "a", "a/nothere"),
	}, nil)
	s.SetDefault(ref("a/default"))
	for host, want := range map[string]string{
		"exact.example":   "Secret a/exact",
		"any.example":     "Secret a/wild",
		"plain.example":   "Secret a/wild",    // named without TLS, same namespace
		"foreign.example": "Secret a/default", // named by another namespace
		"a.b.example":     "Secret a/default",
		"example":         "Secret a/default",
		"sub.b.test":      "Secret a/default", // in a certificate, claimed by nobody
		"mismatch.test":   "Secret a/default",
		"broken.test":     "Secret a/default",
		"missing.test":    "Secret a/default",
		"":                "Secret a/default",
	} {
		sel := s.Select(host)
		if sel.Source != want {
			t.Errorf("Select(%q) = %s, want %s", host, sel.Source, want)
		}
		if (sel.Why != "") != (want == "Secret a/default") {
			t.Errorf("Select(%q) gives the reason %q", host, sel.Why)
		}
	}
	got := fmt.Sprint(reasons(s.Problems()))
	if want := "[CertificateNameMismatch CertificateUnusable CertificateUnusable]"; got != want {
		t.Errorf("problems %s, want %s", got, want)
	}
	s.SetDefault(certstore.SecretRef{})
	if sel := s.Select(""); sel.Source != "self-signed" {
		t.Errorf("without a default Secret: %s", sel.Source)
	}
}

func reasons(ps []diag.Problem) []diag.Reason {
	var out []diag.Reason
	for _, p := range ps {
		out = append(out, p.Reason)
	}
	slices.Sort(out)
	return out
}

// TestDefaultOfNoUse: whoever names a default certificate is told why strangers
// get the self-signed one.
func TestDefaultOfNoUse(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	certPEM, keyPEM := ca.Leaf("any.example")
	good := parse(t, certPEM, keyPEM)
	certPEM, keyPEM = ca.LeafOf(testcert.ECDSA, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), "any.example")
	expired := parse(t, certPEM, keyPEM)
	s.SetDefault(ref("a/default"))
	for _, c := range []struct {
		name   string
		set    func()
		reason diag.Reason
		text   string
	}{
		{"missing", func() {}, certstore.ReasonUnusable, "Secret a/default does not exist"},
		{"broken", func() { s.SetSecret(ref("a/default"), nil, "tls.crt is missing or empty") }, certstore.ReasonUnusable, "tls.crt is missing"},
		{"expired", func() { s.SetSecret(ref("a/default"), expired, "") }, certstore.ReasonExpired, "expired at"},
		{"good", func() { s.SetSecret(ref("a/default"), good, "") }, "", ""},
		{"self-signed", func() { s.SetDefault(certstore.SecretRef{}) }, "", ""},
	} {
		c.set()
		ps := s.Problems()
		if len(ps) == 0 && c.reason == "" {
			continue
		}
		if len(ps) != 1 || ps[0].Reason != c.reason || !strings.Contains(ps[0].Message, c.text) || ps[0].Remedy == "" ||
			ps[0].Object != (diag.Ref{Kind: "Secret", Namespace: "a", Name: "default"}) {
			t.Errorf("%s: problems %v, want one of %q with %q", c.name, ps, c.reason, c.text)
		}
	}
}

func TestRotationAndExpiry(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	s.SetClaims([]certstore.Claim{claim("h.example", "a", "a/s")}, nil)
	if sel := s.Select("h.example"); !strings.Contains(sel.Why, "does not exist") {
		t.Errorf("before the Secret: %q", sel.Why)
	}
	changed := s.Changed()
	certPEM, keyPEM := ca.LeafOf(testcert.ECDSA, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), "h.example")
	first := parse(t, certPEM, keyPEM)
	s.SetSecret(ref("a/s"), first, "")
	<-changed
	if s.Select("h.example").Certificate != first {
		t.Error("an expired certificate is served as it is")
	}
	if got := reasons(s.Problems()); len(got) != 1 || got[0] != certstore.ReasonExpired {
		t.Errorf("problems %v", got)
	}
	certPEM, keyPEM = ca.Leaf("h.example")
	second := parse(t, certPEM, keyPEM)
	s.SetSecret(ref("a/s"), second, "")
	if s.Select("h.example").Certificate != second || len(s.Problems()) != 0 {
		t.Error("the new certificate is not served")
	}
	s.SetClaims(nil, []string{"h.example"})
	if s.Select("h.example").Certificate == second {
		t.Error("a certificate is served for a host that nobody claims any more")
	}
	if got := s.Wanted(); len(got) != 0 {
		t.Errorf("Wanted() = %v", got)
	}
}

func TestSelectDoesNotAllocate(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	certPEM, keyPEM := ca.Leaf("h.example")
	s.SetSecret(ref("a/s"), parse(t, certPEM, keyPEM), "")
	s.SetClaims([]certstore.Claim{claim("h.example", "a", "a/s")}, nil)
	if n := testing.AllocsPerRun(100, func() { s.Select("unknown.test") }); n != 0 {
		t.Errorf("Select allocates %v times for an unknown host", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, certPEM, keyPEM []byte) {
		if c, err := certstore.Parse(certPEM, keyPEM); (c == nil) == (err == nil) {
			t.Fatal("neither a certificate nor an error")
		}
	})
}
