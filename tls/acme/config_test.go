package acme

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/testcert"
)

func file(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(text string) (*Issuers, error) {
	c, err := ParseConfig([]byte(text))
	if err != nil {
		return nil, err
	}
	return c.Open()
}

func TestConfig(t *testing.T) {
	key := file(t, "c2VjcmV0\n")
	bundle := file(t, string(testcert.PEM(testcert.New(t).Cert)))
	s, err := open(`
default: le
issuers:
- name: le
  directory: https://ca.example/dir
  staging: https://staging.ca.example/dir
  email: Ops@Example.com
  eab: {keyID: kid, keyFile: ` + key + `}
  caBundle: ` + bundle + `
  timeout: 90s
- name: dns
  directory: https://ca.example/dir
  keyType: rsa2048
  challenges: [dns-01]
  dns: {provider: rfc2136, settings: {server: ns.example, keyName: k, keyFile: ` + key + `}}
  namespaces: [shop]
  dnsSuffixes: ["*.Example.com"]
- {name: own, ca: true, lifetime: 24h}
`)
	if err != nil {
		t.Fatal(err)
	}
	le, dns := s.Default, s.byName["dns"]
	if le.Name != "le" || le.Email != "ops@example.com" || le.EAB.MACKey != "c2VjcmV0" || le.Roots == nil || le.Timeout.Seconds() != 90 || le.KeyType != DefaultKeyType {
		t.Errorf("%+v", le)
	}
	if dns.DNS == nil || dns.Suffixes[0] != "example.com" || !s.byName["own"].Internal() {
		t.Errorf("%+v", dns)
	}
	if names := strings.Join(s.Names(), " "); names != "dns le own" {
		t.Error(names)
	}
	if one, _ := open("issuers: [{name: own, ca: true}]"); one.Default == nil {
		t.Error("the only issuer is not the default one")
	}
	if two, _ := open("issuers: [{name: a, ca: true}, {name: b, ca: true}]"); two.Default != nil {
		t.Error("one of two is the default one")
	}
	for _, local := range []string{"http://127.0.0.1:14000/dir", "http://[::1]/dir", "http://localhost:1/dir"} {
		if _, err := open("issuers: [{name: a, directory: '" + local + "'}]"); err != nil {
			t.Errorf("%s: %v", local, err)
		}
	}
	if _, ok := new(Issuers).Get(""); ok {
		t.Error("nothing has an issuer")
	}
}

// TestBadConfig: every fault is told, with the issuer that has it.
func TestBadConfig(t *testing.T) {
	empty, odd := file(t, " \n"), file(t, "no+base/64url\n")
	for text, want := range map[string]string{
		"":            "lists no issuer",
		"issuers: []": "lists no issuer",
		"default: a":  "lists no issuer",
		"issuers: [{name: a}]\n---\nissuers: [{name: b}]": "more than one YAML document",
		"issuer: []":                                                                                  `line 1: there is no key "issuer" here`,
		"issuers: [{nam: a}]":                                                                         `there is no key "nam" here`,
		"issuers: {name: a}":                                                                          "line 1: keys is not a list of issuers",
		"issuers: [a]":                                                                                "text `a` is not an issuer",
		"issuers: [{name: a, ca: maybe}]":                                                             "text `maybe` is not true or false",
		"issuers: [{name: a, ca: true, eab: x}]":                                                      "is not keys with values",
		"issuers: [{name: a, timeout: soon}]":                                                         "is not a duration such as 5m",
		"issuers: [{name: a, namespaces: shop}]":                                                      "is not a list of text",
		"issuers: [{name: a, dns: {settings: [x]}}]":                                                  "is not keys with text",
		"issuers: [{}]":                                                                               "name is missing",
		"issuers: [{name: A}]":                                                                        "lower-case letters",
		"issuers: [{name: a}]":                                                                        "directory is missing",
		"issuers: [{name: a, ca: true, directory: https://x/}]":                                       "exclude each other",
		"issuers: [{name: a, directory: 'http://x/'}]":                                                "directory \"http://x/\" is not an https URL",
		"issuers: [{name: a, directory: 'http://10.0.0.1/'}]":                                         "http is for servers on this machine only",
		"issuers: [{name: a, directory: 'https://:443/'}]":                                            "not an https URL",
		"issuers: [{name: a, directory: 'https://x/', staging: ':'}]":                                 "staging \":\" is not an https URL",
		"issuers: [{name: a, directory: 'https://x/', email: x}]":                                     "is not an address",
		"issuers: [{name: a, ca: true, keyType: p224}]":                                               "p256, p384, rsa2048, rsa4096",
		"issuers: [{name: a, directory: 'https://x/', challenges: [http-02]}]":                        "http-01, tls-alpn-01 or dns-01",
		"issuers: [{name: a, directory: 'https://x/', challenges: [dns-01]}]":                         "needs dns",
		"issuers: [{name: a, directory: 'https://u:secret@x/'}]":                                      "directory https://u:xxxxx@x/ has a name or a password",
		"issuers: [{name: a, ca: true, lifetime: -1s}]":                                               "lifetime -1s is not between 5m0s and 4320h0m0s",
		"issuers: [{name: a, ca: true, lifetime: 1s}]":                                                "lifetime 1s is not between",
		"issuers: [{name: a, ca: true, lifetime: 9000h}]":                                             "lifetime 9000h0m0s is not between",
		"issuers: [{name: a, ca: true, profile: x, email: a@b.example, timeout: 1m}]":                 "email, profile, timeout: a CA of our own has no use for it",
		"issuers: [{name: a, directory: 'https://x/', lifetime: 1h}]":                                 "lifetime is for a CA of our own",
		"issuers: [{name: a, directory: 'https://x/', timeout: 1ms}]":                                 "timeout 1ms is less than 10s",
		"issuers: [{name: a, directory: 'https://x/', eab: {keyID: x}}]":                              "both keyID and keyFile",
		"issuers: [{name: a, directory: 'https://x/', eab: {keyID: x, keyFile: " + empty + "}}]":      "is empty",
		"issuers: [{name: a, directory: 'https://x/', eab: {keyID: x, keyFile: " + odd + "}}]":        "is not base64url",
		"issuers: [{name: a, directory: 'https://x/', caBundle: /does/not/exist}]":                    "no such file",
		"issuers: [{name: a, directory: 'https://x/', caBundle: " + empty + "}]":                      "contains no certificate",
		"issuers: [{name: a, ca: true, dnsSuffixes: ['a b']}]":                                        "is not a domain",
		"issuers: [{name: a, directory: 'https://x/', dns: {provider: x}}]":                           "is not one of rfc2136",
		"issuers: [{name: a, directory: 'https://x/', dns: {provider: rfc2136, settings: {key: x}}}]": `setting "key" does not exist`,
		"issuers: [{name: a, directory: 'https://x/', dns: {provider: rfc2136, settings: {}}}]":       "the file with the key is missing",
		"{default: b, issuers: [{name: a, ca: true}]}":                                                `default issuer "b" is not among`,
		"issuers: [{name: a, ca: true}, {name: a, ca: true}]":                                         "is there twice",
		"issuers: [{name: a, keyType: x}, {name: b, email: y, directory: 'https://x'}]":               "issuer \"b\": email",
	} {
		_, err := open(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
			continue
		}
		for _, inside := range []string{"no+base", "acme.", "time.", "struct", "!!", "yaml:", "[]"} {
			if strings.Contains(err.Error(), inside) {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"", "issuers: [{name: a, ca: true}]", "issuers: [{name: a, directory: 'https://x/', dns: {provider: rfc2136, settings: {server: x}}}]", "default: x", "issuers: [&a {name: *a}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		for i := range c.Issuers { // open files of the fuzzer's choice: no
			in := &c.Issuers[i]
			in.EAB.KeyFile, in.CABundle = "", ""
			if in.DNS != nil {
				delete(in.DNS.Settings, "keyFile")
			}
		}
		s, err := c.Open()
		if err != nil {
			return
		}
		for _, name := range s.Names() {
			if i, ok := s.Get(name); !ok || i.Name != name || i.KeyType == "" || len(i.Challenges) == 0 {
				t.Errorf("issuer %q: %+v", name, i)
			}
		}
	})
}

func TestPermit(t *testing.T) {
	anybody := &Issuer{Name: "le", Directory: "https://x", Challenges: []string{HTTP01}}
	narrow := &Issuer{Name: "n", Directory: "https://x", Challenges: []string{HTTP01}, Namespaces: []string{"shop"}, Suffixes: []string{"example.com"}, DNS: &DNS{}}
	open := &Issuer{Name: "open", Directory: "https://x", Challenges: []string{DNS01}, DNS: &DNS{}}
	half := &Issuer{Name: "half", Directory: "https://x", Challenges: []string{HTTP01}, Suffixes: []string{"example.com"}, DNS: &DNS{}}
	own := &Issuer{Name: "own", Suffixes: []string{"example.com"}}
	both := &Issuer{Name: "both", Suffixes: []string{"example.com"}, Namespaces: []string{"shop"}}
	for _, c := range []struct {
		issuer    *Issuer
		namespace string
		name      string
		want      string // empty: permitted
	}{
		{anybody, "any", "a.example", ""},
		{anybody, "any", "*.example", "has no DNS provider"},
		{narrow, "shop", "a.example.com", ""},
		{narrow, "shop", "example.com", ""},
		{narrow, "shop", "*.example.com", ""},
		{narrow, "blog", "a.example.com", "may not be used from namespace blog"},
		{narrow, "shop", "badexample.com", "may not be used for badexample.com"},
		{narrow, "shop", "*.com", "may not be used for *.com"},
		{open, "shop", "a.example", "only if it lists"},
		{half, "shop", "*.example.com", "only if it lists"},
		{half, "shop", "a.example.com", ""},
		{own, "any", "*.example.com", "only if it lists"},
		{own, "any", "a.example.com", ""},
		{both, "shop", "*.example.com", ""},
		{own, "any", "a.example", "may not be used for"},
	} {
		err := c.issuer.Permit(c.namespace, []string{c.name})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s for %s: %v, want %q", c.issuer.Name, c.namespace, c.name, err, c.want)
		}
	}
}

func TestKeys(t *testing.T) {
	for kind := range keyTypes {
		i := &Issuer{KeyType: kind}
		text, err := i.newKey()
		if err != nil {
			t.Fatal(err)
		}
		key, err := parseKey(text)
		if err != nil || !i.fits(key) || (&Issuer{KeyType: "other"}).fits(key) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, bad := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"} {
		if _, err := parseKey([]byte(bad)); !errors.Is(err, errNoKey) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
