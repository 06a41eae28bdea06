package localca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portico-ingress/portico/tls/localca"
)

func open(t *testing.T, opts localca.Options) *localca.CA {
	t.Helper()
	ca, err := localca.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func pool(ca *localca.CA) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.Certificate())
	return p
}

func TestIssue(t *testing.T) {
	ca := open(t, localca.Options{Dir: t.TempDir()})
	certPEM, keyPEM, err := ca.Issue([]string{"shop.localhost", "*.apps.localhost", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for host, valid := range map[string]bool{
		"shop.localhost": true, "a.apps.localhost": true, "localhost": true,
		"apps.localhost": false, "a.b.apps.localhost": false, "other.localhost": false,
	} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool(ca), DNSName: host})
		if (err == nil) != valid {
			t.Errorf("%s: %v, want valid %v", host, err, valid)
		}
	}
	if got := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore); got > 31*24*time.Hour {
		t.Errorf("valid for %s", got)
	}
	for _, hosts := range [][]string{nil, {"example.com"}, {"a.localhost", "notlocalhost"}, {"localhost.example.com"}} {
		if _, _, err := ca.Issue(hosts); err == nil {
			t.Errorf("issued for %v", hosts)
		}
	}
}

// TestConstraint signs a real host with the CA's stolen key: whoever trusts
// the CA must still refuse it.
func TestConstraint(t *testing.T) {
	dir := t.TempDir()
	ca := open(t, localca.Options{Dir: dir})
	stolen, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for host, valid := range map[string]bool{
		"bank.example": false, "localhost.example": false, "192.0.2.1": false, "2001:db8::1": false, "shop.localhost": true,
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1),
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = []net.IP{ip}
		} else {
			template.DNSNames = []string{host}
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate(), key.Public(), stolen.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool(ca), DNSName: host})
		if (err == nil) != valid {
			t.Errorf("%s: %v, want valid %v", host, err, valid)
		}
	}
}

func TestOpenAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "local-ca")
	var all [8]*localca.CA
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			ca, err := localca.Open(localca.Options{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			all[i] = ca
		})
	}
	wg.Wait()
	for _, ca := range all {
		if ca != nil && !ca.Certificate().Equal(all[0].Certificate()) {
			t.Error("two CAs came of one folder")
		}
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", info, err)
	}
	if info, err = os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info, err)
	}
}

func TestOpenAgain(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	dir := t.TempDir()
	first := open(t, localca.Options{Dir: dir, Now: clock})
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	foreign, foreignKey, err := first.Issue([]string{"a.localhost"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func()
		same   bool
	}{
		{"untouched", func() {}, true},
		{"two years later", func() { now = now.AddDate(2, 0, 0) }, true},
		{"near its end", func() { now = now.AddDate(1, 0, -40) }, false},
		{"clock set back", func() { now = now.AddDate(-1, 0, 0) }, false},
		{"broken certificate", func() { write("ca.crt", "nonsense") }, false},
		{"broken key", func() { write("ca.key", "nonsense") }, false},
		{"another certificate", func() { write("ca.crt", string(foreign)) }, false},
		{"an unconstrained pair", func() { write("ca.crt", string(foreign)); write("ca.key", string(foreignKey)) }, false},
		{"lost certificate", func() { _ = os.Remove(first.File()) }, false},
	} {
		before := open(t, localca.Options{Dir: dir, Now: clock})
		c.change()
		after := open(t, localca.Options{Dir: dir, Now: clock})
		if same := before.Certificate().Equal(after.Certificate()); same != c.same {
			t.Errorf("%s: same CA %v, want %v", c.name, same, c.same)
		}
		text, err := os.ReadFile(after.File())
		if err != nil || !strings.Contains(string(text), "BEGIN CERTIFICATE") {
			t.Errorf("%s: %s: %v", c.name, after.File(), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	open(t, localca.Options{Dir: dir})
	if err := os.Chmod(filepath.Join(dir, "ca.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := localca.Open(localca.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "remove the folder") {
		t.Errorf("a key that others may read: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := localca.Open(localca.Options{Dir: filepath.Join(file, "sub")}); err == nil {
		t.Error("a folder below a file")
	}
	ca, err := localca.New(localca.Options{})
	if err != nil || ca.File() != "" {
		t.Errorf("in memory: file %q, %v", ca.File(), err)
	}
}

func TestDefaultDir(t *testing.T) {
	for _, c := range []struct{ state, home, want string }{
		{"/var/state", "/home/ada", "/var/state/portico/local-ca"},
		{"", "/home/ada", "/home/ada/.local/state/portico/local-ca"},
		{"relative", "/home/ada", "/home/ada/.local/state/portico/local-ca"},
		{"", "", ""},
	} {
		t.Setenv("XDG_STATE_HOME", c.state)
		t.Setenv("HOME", c.home)
		got, err := localca.DefaultDir()
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("state %q, home %q: %q %v, want %q", c.state, c.home, got, err, c.want)
		}
	}
}
