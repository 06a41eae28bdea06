//go:build acme

package acme

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/portico-ingress/portico/test/pebble"
	"github.com/portico-ingress/portico/tls/acme"
)

// bind is a real DNS server with a zone that takes signed updates.
type bind struct {
	t    *testing.T
	addr string
	key  string // base64
}

const namedConfig = `
options {
	directory "DIR"; session-keyfile "DIR/session.key"; managed-keys-directory "DIR"; pid-file none; lock-file none;
	listen-on port PORT { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; notify no;
};
controls { };
key portico { algorithm hmac-sha256; secret "KEY"; };
zone "inside.example" { type primary; file "DIR/zone"; update-policy { grant portico zonesub TXT; }; };
`

const zone = `$TTL 60
@ IN SOA ns.inside.example. nobody.inside.example. 1 60 60 60 60
@ IN NS ns.inside.example.
ns IN A 127.0.0.1
`

func startBind(t *testing.T) *bind {
	t.Helper()
	named, err := exec.LookPath("named")
	if err != nil {
		t.Fatalf("%v: DNS-01 is tested against BIND (apt-get install bind9)", err)
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	b := &bind{t: t, addr: pebble.FreeAddress(t), key: base64.StdEncoding.EncodeToString(secret)}
	_, port, _ := net.SplitHostPort(b.addr)
	dir := t.TempDir()
	b.write(filepath.Join(dir, "zone"), zone)
	config := b.write(filepath.Join(dir, "named.conf"), strings.NewReplacer("DIR", dir, "PORT", port, "KEY", b.key).Replace(namedConfig))
	log := &journal{}
	cmd := exec.Command(named, "-g", "-c", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("named:\n%s", log)
		}
	})
	return b
}

func (b *bind) write(name, text string) string {
	b.t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return name
}

// txt returns the texts at a name.
func (b *bind) txt(name string) ([]string, error) {
	answer, _, err := new(dns.Client).ExchangeContext(b.t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeTXT), b.addr)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(txt.Txt, ""))
		}
	}
	return out, nil
}

// issuer is one that validates by DNS, with a key for updates.
func (b *bind) issuer(ca *pebble.Server, key string) *acme.Issuer {
	b.t.Helper()
	file := b.write(filepath.Join(b.t.TempDir(), "key"), key)
	return issuer(b.t, ca, func(c *acme.IssuerConfig) {
		c.Challenges, c.Namespaces, c.DNSSuffixes = []string{acme.DNS01}, []string{"shop"}, []string{"inside.example"}
		c.DNS = &acme.DNSConfig{Provider: "rfc2136", Settings: map[string]string{"server": b.addr, "keyName": "portico", "keyFile": file}, Resolvers: []string{b.addr}}
	})
}

// TestWildcardByDNS: a wildcard and its domain are one certificate, validated by
// two records at one name, which are gone afterwards.
func TestWildcardByDNS(t *testing.T) {
	r, b := newRig(t), startBind(t)
	r.until("BIND answers", func() bool { _, err := b.txt("inside.example."); return err == nil })
	ca := r.pebble(pebble.Options{DNS: b.addr})
	r.start()
	w := wanted(b.issuer(ca, b.key), "*.inside.example", "inside.example")
	r.manager.Want([]acme.Wanted{w})
	leaf := r.certificate(w).Leaf()
	if fmt.Sprint(leaf.DNSNames) != "[*.inside.example inside.example]" {
		t.Errorf("a certificate for %v", leaf.DNSNames)
	}
	if left, err := b.txt("_acme-challenge.inside.example."); err != nil || len(left) > 0 {
		t.Errorf("what is left of the challenge: %v, %v", left, err)
	}
}

// TestWrongKey: BIND's refusal is told, with what to look at.
func TestWrongKey(t *testing.T) {
	r, b := newRig(t), startBind(t)
	r.until("BIND answers", func() bool { _, err := b.txt("inside.example."); return err == nil })
	ca := r.pebble(pebble.Options{DNS: b.addr})
	r.start()
	w := wanted(b.issuer(ca, base64.StdEncoding.EncodeToString(make([]byte, 32))), "*.inside.example")
	r.manager.Want([]acme.Wanted{w})
	if f := r.failed(w); f.Reason != acme.ReasonChallenge || !strings.Contains(f.Message, "BADSIG") {
		t.Errorf("%+v", f)
	}
}
