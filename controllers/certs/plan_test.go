package certs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// ingress makes an Ingress in "namespace/name" with a rule for every host of its
// TLS entries, younger the later it is made.
func ingress(t *testing.T, name string, age time.Duration, annotations map[string]string, tls ...networkingv1.IngressTLS) *networkingv1.Ingress {
	t.Helper()
	ns, n, _ := strings.Cut(name, "/")
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{
		Namespace: ns, Name: n, Annotations: annotations, CreationTimestamp: metav1.NewTime(noon.Add(-age)), Generation: 1,
	}, Spec: networkingv1.IngressSpec{TLS: tls}}
	for _, entry := range tls {
		for _, h := range entry.Hosts {
			ing.Spec.Rules = append(ing.Spec.Rules, networkingv1.IngressRule{Host: h})
		}
	}
	return ing
}

func entryFor(secret string, hosts ...string) networkingv1.IngressTLS {
	return networkingv1.IngressTLS{SecretName: secret, Hosts: hosts}
}

func annotated(pairs ...string) map[string]string {
	out := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

func table(ingresses ...*networkingv1.Ingress) *router.Table {
	var list []*router.Ingress
	for _, ing := range ingresses {
		translated, _ := translate.Ingress(ing)
		list = append(list, translated)
	}
	return router.Compile(router.Options{}, list)
}

func issuers(t *testing.T, list ...acme.IssuerConfig) *acme.Issuers {
	t.Helper()
	s, err := (&acme.Config{Issuers: list}).Open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publicCA(name string) acme.IssuerConfig {
	return acme.IssuerConfig{Name: name, Directory: "https://ca.example/" + name}
}

func parsed(t *testing.T, until time.Time, hosts ...string) *certstore.Certificate {
	t.Helper()
	certPEM, keyPEM := testcert.New(t).LeafOf(testcert.ECDSA, noon.Add(-time.Hour), until, hosts...)
	c, err := certstore.Parse(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// describePlan writes a plan as the tests compare it.
func describePlan(p *plan) string {
	var out []string
	for _, e := range p.entries {
		verb, have := "order", ""
		if !e.managed() {
			verb = "refuse"
		} else if e.wanted.Have != nil {
			have = " when due"
		}
		out = append(out, fmt.Sprintf("%s %s for %s%s", verb, strings.Join(e.wanted.Names, ","), e.secret, have))
	}
	for _, ref := range p.released {
		out = append(out, "release "+ref.String())
	}
	for _, pr := range p.problems {
		out = append(out, "problem "+string(pr.Reason)+" on "+pr.Object.Name)
	}
	return strings.Join(out, "; ")
}

const asks = translate.IssuerAnnotation

// TestPlan shows for each picture what is done about certificates.
func TestPlan(t *testing.T) {
	soon, late := noon.Add(20*24*time.Hour), noon.Add(60*24*time.Hour)
	acmeAsks := annotated(translate.TLSACMEAnnotation, "true")
	one := issuers(t, publicCA("le"))
	for name, c := range map[string]struct {
		issuers   *acme.Issuers // default: one
		ingresses []*networkingv1.Ingress
		secrets   map[string]secretState
		want      string
	}{
		"nobody asks": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, nil, entryFor("tls", "a.example"))}},
		"by name":     {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "b.example", "a.example"))}, want: "order a.example,b.example for a/tls"},
		"by default":  {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, acmeAsks, entryFor("tls", "a.example"))}, want: "order a.example for a/tls"},
		"two entries": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, acmeAsks, entryFor("one", "a.example"), entryFor("two", "b.example"))},
			want: "order a.example for a/one; order b.example for a/two"},
		"no default issuer": {issuers: issuers(t, publicCA("le"), publicCA("zero")),
			ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, acmeAsks, entryFor("tls", "a.example"))}, want: ""},
		"no such issuer": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "el"), entryFor("tls", "a.example"))},
			want: "refuse a.example for a/tls; problem IssuerMissing on web"},
		"no TLS": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"))}, want: "problem CertificateWithoutTLS on web"},
		"no Secret": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("", "a.example"))},
			want: "refuse a.example for a/; problem CertificateWithoutTLS on web"},
		"cert-manager goes first": {ingresses: []*networkingv1.Ingress{
			ingress(t, "a/web", 0, annotated(asks, "le", "cert-manager.io/issuer", "x"), entryFor("tls", "a.example")),
			ingress(t, "a/old", 0, annotated(translate.TLSACMEAnnotation, "true", "acme.cert-manager.io/x", "y"), entryFor("old", "old.example"))},
			want: "problem CertManagerGoesFirst on web"},
		"a second namespace claims an owned host": {ingresses: []*networkingv1.Ingress{
			ingress(t, "evil/web", 0, annotated(asks, "le"), entryFor("tls", "a.example")),
			ingress(t, "a/web", time.Hour, annotated(asks, "le"), entryFor("tls", "a.example"))},
			want: "order a.example for a/tls; refuse a.example for evil/tls; problem HostNotOwned on web"},
		"an owned host among others": {ingresses: []*networkingv1.Ingress{
			ingress(t, "evil/web", 0, annotated(asks, "le"), entryFor("tls", "own.example", "a.example")),
			ingress(t, "a/web", time.Hour, nil, entryFor("tls", "a.example"))},
			want: "refuse a.example,own.example for evil/tls; problem HostNotOwned on web"},
		"two that agree on a Secret": {ingresses: []*networkingv1.Ingress{
			ingress(t, "a/one", time.Hour, annotated(asks, "le"), entryFor("tls", "a.example")),
			ingress(t, "a/two", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			want: "order a.example for a/tls; order a.example for a/tls"},
		"two that fight for a Secret": {ingresses: []*networkingv1.Ingress{
			ingress(t, "a/two", 0, annotated(asks, "le"), entryFor("tls", "b.example")),
			ingress(t, "a/one", time.Hour, annotated(asks, "le"), entryFor("tls", "a.example"))},
			want: "order a.example for a/tls; refuse b.example for a/tls; problem SecretShared on two"},
		"one that does not ask was there before": {ingresses: []*networkingv1.Ingress{
			ingress(t, "a/two", 0, annotated(asks, "le"), entryFor("tls", "b.example")),
			ingress(t, "a/one", time.Hour, nil, entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, written: true, issuer: "le", cert: parsed(t, late, "a.example")}},
			want:    "refuse b.example for a/tls; release a/tls; problem SecretShared on two"},
		"one that does not ask came later": {ingresses: []*networkingv1.Ingress{
			ingress(t, "a/one", time.Hour, annotated(asks, "le"), entryFor("tls", "b.example")),
			ingress(t, "a/two", 0, nil, entryFor("tls", "a.example"))},
			want: "order b.example for a/tls"},
		"a foreign Secret": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, cert: parsed(t, late, "a.example")}}, want: "refuse a.example for a/tls"},
		"a foreign Secret near its end": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, cert: parsed(t, soon, "a.example")}},
			want:    "refuse a.example for a/tls; problem CertificateNotManaged on web"},
		"handed over": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, cert: parsed(t, late, "a.example")}}, want: "order a.example for a/tls when due"},
		"handed over, for other hosts": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example", "b.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, cert: parsed(t, late, "a.example")}}, want: "order a.example,b.example for a/tls"},
		"from another issuer": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, written: true, issuer: "zero", cert: parsed(t, late, "a.example")}}, want: "order a.example for a/tls"},
		"given back": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, nil, entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, written: true, issuer: "le"}}, want: "release a/tls"},
		"given to cert-manager": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(translate.TLSACMEAnnotation, "true", "cert-manager.io/issuer", "x"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, written: true, issuer: "le"}}, want: "release a/tls"},
		"about to be handed over": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, nil, entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true}}},
		"another still asks": {ingresses: []*networkingv1.Ingress{
			ingress(t, "a/web", 0, nil, entryFor("tls", "a.example")), ingress(t, "a/asks", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, written: true, issuer: "le"}}, want: "order a.example for a/tls"},
		// A slip of whoever configures issuers costs nobody a certificate.
		"the issuer is gone": {issuers: issuers(t, publicCA("zero")), ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))},
			secrets: map[string]secretState{"a/tls": {phase: present, managed: true, written: true, issuer: "le", cert: parsed(t, late, "a.example")}},
			want:    "refuse a.example for a/tls; problem IssuerMissing on web"},
		"a wildcard of a CA of one's own without lists": {issuers: issuers(t, ownCA("own")), ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "own"), entryFor("tls", "*.a.example"))},
			want: "refuse *.a.example for a/tls; problem IssuerNotPermitted on web"},
		"a wildcard without a provider": {ingresses: []*networkingv1.Ingress{ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "*.a.example"))},
			want: "refuse *.a.example for a/tls; problem IssuerNotPermitted on web"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{issuers: c.issuers, ingresses: c.ingresses, table: table(c.ingresses...), now: noon, secrets: func(ref certstore.SecretRef) secretState {
				if s, ok := c.secrets[ref.String()]; ok {
					return s
				}
				return secretState{phase: absent}
			}}
			if w.issuers == nil {
				w.issuers = one
			}
			for range 20 { // whatever the order in which they come
				if got := describePlan(makePlan(w)); got != c.want {
					t.Fatalf("got  %s\nwant %s", got, c.want)
				}
				rand.Shuffle(len(w.ingresses), func(i, j int) { w.ingresses[i], w.ingresses[j] = w.ingresses[j], w.ingresses[i] })
			}
		})
	}
}

// Until the table has followed an Ingress nothing is decided for it.
func TestPlanWaitsForTheTable(t *testing.T) {
	ing := ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))
	w := world{issuers: issuers(t, publicCA("le")), ingresses: []*networkingv1.Ingress{ing}, table: table(), now: noon,
		secrets: func(certstore.SecretRef) secretState { return secretState{phase: absent} }}
	if got := describePlan(makePlan(w)); got != "" {
		t.Errorf("got %s", got)
	}
}

// Nothing is ordered before it is known what the Secret holds.
func TestPlanWaitsForSecrets(t *testing.T) {
	ing := ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))
	w := world{issuers: issuers(t, publicCA("le")), ingresses: []*networkingv1.Ingress{ing}, table: table(ing), now: noon}
	for phase, want := range map[phase]int{unknown: 0, absent: 1, unreadable: 1} {
		w.secrets = func(certstore.SecretRef) secretState { return secretState{phase: phase} }
		if got := makePlan(w).wanted(); len(got) != want {
			t.Errorf("phase %d: %v", phase, got)
		}
	}
}

// The words of a problem name what to type.
func TestHandOverIsNamed(t *testing.T) {
	ing := ingress(t, "a/web", 0, annotated(asks, "le"), entryFor("tls", "a.example"))
	soon := parsed(t, noon.Add(time.Hour), "a.example")
	p := makePlan(world{issuers: issuers(t, publicCA("le")), ingresses: []*networkingv1.Ingress{ing}, table: table(ing), now: noon,
		secrets: func(certstore.SecretRef) secretState { return secretState{phase: present, cert: soon} }})
	const command = "kubectl label secret tls -n a portico.dev/managed=true"
	if !slices.ContainsFunc(problemTexts(p), func(s string) bool { return strings.Contains(s, command) }) {
		t.Errorf("%v", p.problems)
	}
}

// Of two that are as old, as all in a folder are, none is called older.
func TestAsOld(t *testing.T) {
	list := []*networkingv1.Ingress{
		ingress(t, "a/web", 0, nil, entryFor("tls", "a.example")), ingress(t, "b/web", 0, annotated(asks, "le"), entryFor("tls", "a.example")),
	}
	p := makePlan(world{issuers: issuers(t, publicCA("le")), ingresses: list, table: table(list...), now: noon,
		secrets: func(certstore.SecretRef) secretState { return secretState{phase: absent} }})
	if got := strings.Join(problemTexts(p), "; "); !strings.Contains(got, "is as old and comes first by name") {
		t.Error(got)
	}
}

func problemTexts(p *plan) []string {
	var out []string
	for _, pr := range p.problems {
		out = append(out, pr.String())
	}
	return out
}
