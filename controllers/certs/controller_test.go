package certs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// town is a Controller that leads, among Secrets that behave as an apiserver's
// and that it hears of.
type town struct {
	*Controller
	t         *testing.T
	publisher *publish.Publisher
	certs     *certstore.Store
	run       func(func(context.Context) error) // until the test ends

	mu        sync.Mutex // protects the following
	secrets   map[certstore.SecretRef]*corev1.Secret
	version   int
	forbidden bool
	writes    int
	told      map[string]int // steps by Ingress and reason
	ingresses map[string]*networkingv1.Ingress
	news      chan struct{}
}

func newTown(t *testing.T, list *acme.Issuers) *town {
	t.Helper()
	w := newSuburb(t, list)
	w.run(func(ctx context.Context) error { w.Lead(ctx); return nil })
	return w
}

// newSuburb returns a town that follows: it orders and writes nothing.
func newSuburb(t *testing.T, list *acme.Issuers) *town {
	t.Helper()
	w := &town{t: t, secrets: make(map[certstore.SecretRef]*corev1.Secret), ingresses: make(map[string]*networkingv1.Ingress), told: make(map[string]int), news: make(chan struct{})}
	var err error
	if w.certs, err = certstore.New(certstore.Options{}); err != nil {
		t.Fatal(err)
	}
	tokens := acme.NewTokens(nil)
	files, err := acme.NewFiles(t.TempDir(), tokens)
	if err != nil {
		t.Fatal(err)
	}
	registry := upstream.NewRegistry(upstream.Options{})
	w.publisher = publish.New(publish.Options{Registry: registry, Certs: w.certs, Log: logr.Discard()})
	w.Controller = NewController(Options{Issuers: list, Storage: files, Tokens: tokens, Identity: "test", Ingresses: w.list,
		Publisher: w.publisher, Certs: w.certs, Secrets: w, Events: w, Zap: zap.NewNop(), Log: logr.Discard()})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	w.run = func(f func(context.Context) error) {
		group.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	w.run(w.publisher.Start)
	w.run(w.Start)
	w.publisher.Release()
	t.Cleanup(func() { cancel(); group.Wait(); registry.Close() })
	return w
}

// Tell implements EventWriter.
func (w *town) Tell(ingress diag.Ref, s acme.Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[fmt.Sprintf("%s/%s %s %v", ingress.Namespace, ingress.Name, s.Reason, s.Failed)]++
}

// Run implements EventWriter.
func (w *town) Run(ctx context.Context) { <-ctx.Done() }

func (w *town) wasTold(step string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told[step]
}

func (w *town) list(context.Context) ([]*networkingv1.Ingress, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*networkingv1.Ingress
	for _, ing := range w.ingresses {
		out = append(out, ing)
	}
	return out, nil
}

// apply creates or replaces an Ingress; Secrets that it names are looked for.
func (w *town) apply(ing *networkingv1.Ingress) {
	translated, problems := translate.Ingress(ing)
	w.mu.Lock()
	w.ingresses[ing.Namespace+"/"+ing.Name] = ing
	for _, t := range ing.Spec.TLS {
		ref := certstore.SecretRef{Namespace: ing.Namespace, Name: t.SecretName}
		if w.secrets[ref] == nil {
			w.SecretAbsent(ref, true)
		}
	}
	w.mu.Unlock()
	w.publisher.Set(translated, problems)
	w.Wake()
}

// put has a Secret as somebody else makes it.
func (w *town) put(s *corev1.Secret) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store(s)
}

func (w *town) store(s *corev1.Secret) {
	w.version++
	s = s.DeepCopy()
	s.ResourceVersion = strconv.Itoa(w.version)
	ref := certstore.SecretRef{Namespace: s.Namespace, Name: s.Name}
	w.secrets[ref] = s
	cert, problem := translate.Certificate(s)
	w.certs.SetSecret(ref, cert, problem)
	w.SecretDelivered(s, cert)
	close(w.news)
	w.news = make(chan struct{})
}

func (w *town) remove(ref certstore.SecretRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.secrets, ref)
	w.certs.DeleteSecret(ref)
	w.SecretAbsent(ref, true)
}

var secretResource = schema.GroupResource{Resource: "secrets"}

// Create implements SecretWriter.
func (w *town) Create(_ context.Context, s *corev1.Secret) error {
	return w.write(s, func(was *corev1.Secret) error {
		if was != nil {
			return apierrors.NewAlreadyExists(secretResource, s.Name)
		}
		return nil
	})
}

// Update implements SecretWriter.
func (w *town) Update(_ context.Context, s *corev1.Secret) error {
	return w.write(s, func(was *corev1.Secret) error {
		if was == nil || s.ResourceVersion == "" || was.ResourceVersion != s.ResourceVersion {
			return apierrors.NewConflict(secretResource, s.Name, nil)
		}
		if was.Labels[ManagedLabel] != "true" {
			w.t.Errorf("Secret %s/%s is written although it is not ours", s.Namespace, s.Name)
		}
		return nil
	})
}

func (w *town) write(s *corev1.Secret, check func(*corev1.Secret) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes++
	if w.forbidden {
		return apierrors.NewForbidden(secretResource, s.Name, fmt.Errorf("no right"))
	}
	if err := check(w.secrets[certstore.SecretRef{Namespace: s.Namespace, Name: s.Name}]); err != nil {
		return err
	}
	w.store(s)
	return nil
}

func (w *town) secret(ref certstore.SecretRef) *corev1.Secret {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.secrets[ref]
}

// until waits for a condition, which is asked whenever something changes.
func (w *town) until(what string, condition func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		w.mu.Lock()
		news := w.news
		w.mu.Unlock()
		certs, table := w.certs.Changed(), w.publisher.Changed()
		w.Controller.mu.Lock()
		planned := w.planned
		w.Controller.mu.Unlock()
		if condition() {
			return
		}
		select {
		case <-news:
		case <-certs:
		case <-table:
		case <-planned:
		case <-deadline.C:
			w.t.Fatalf("still not: %s; %+v; %v", what, w.Managed(), w.publisher.Problems())
		}
	}
}

func (w *town) source(host string) string { return w.certs.Select(host).Source }

func (w *town) has(reason diag.Reason) bool {
	for _, p := range w.publisher.Problems() {
		if p.Reason == reason {
			return true
		}
	}
	return false
}

func ownCA(name string) acme.IssuerConfig { return acme.IssuerConfig{Name: name, CA: true} }

var tlsRef = certstore.SecretRef{Namespace: "a", Name: "tls"}

// TestWritten: a certificate is written, made again when its Secret is deleted,
// and left alone when nobody asks for it any more.
func TestWritten(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the Secret", func() bool { return w.secret(tlsRef) != nil && w.source("a.example") == "Secret a/tls" })
	s := w.secret(tlsRef)
	if s.Type != corev1.SecretTypeTLS || s.Labels[ManagedLabel] != "true" || s.Annotations[issuedBy] != "own" || len(s.Data["ca.crt"]) == 0 {
		t.Errorf("%s, labels %v, annotations %v, %d data", s.Type, s.Labels, s.Annotations, len(s.Data))
	}
	first := string(s.Data[corev1.TLSCertKey])
	w.remove(tlsRef)
	if got := w.source("a.example"); got != "issuer own" {
		t.Errorf("as soon as the Secret is deleted, %s is served", got)
	}
	w.until("the Secret again", func() bool { return w.secret(tlsRef) != nil })
	if got := string(w.secret(tlsRef).Data[corev1.TLSCertKey]); got != first {
		t.Error("another certificate was ordered although one is stored")
	}
	w.apply(ingress(t, "a/web", time.Hour, nil, entryFor("tls", "a.example")))
	w.until("the label is gone, and nothing stands in", func() bool {
		return w.secret(tlsRef).Labels[ManagedLabel] == "" && w.source("a.example") == "Secret a/tls"
	})
	s = w.secret(tlsRef)
	if string(s.Data[corev1.TLSCertKey]) != first || s.Annotations[issuedBy] != "" {
		t.Errorf("what stays: %v", s.Annotations)
	}
	w.until("the owner is told", func() bool { return w.wasTold("a/web SecretReleased false") == 1 })
}

// TestLabelStays: where the label may not be taken away, the owner is told once.
func TestLabelStays(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the Secret", func() bool { return w.source("a.example") == "Secret a/tls" })
	w.mu.Lock()
	w.forbidden = true
	w.mu.Unlock()
	w.apply(ingress(t, "a/web", time.Hour, nil, entryFor("tls", "a.example")))
	w.until("the owner is told", func() bool { return w.wasTold("a/web SecretReleased true") == 1 })
	for i := range 3 { // other things happen
		w.apply(ingress(t, fmt.Sprintf("b/web%d", i), 0, nil, entryFor("tls", fmt.Sprintf("b%d.example", i))))
		w.until("another host", func() bool { _, ok := w.publisher.Snapshot().Table.Host(fmt.Sprintf("b%d.example", i)); return ok })
	}
	if n := w.wasTold("a/web SecretReleased true"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// TestForbidden: without the right to write, the storage is served and the owner
// is told; the apiserver is not asked again and again.
func TestForbidden(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	w.mu.Lock()
	w.forbidden = true
	w.mu.Unlock()
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the storage is served", func() bool { return w.source("a.example") == "issuer own" && w.has(ReasonNotWritten) })
	for i := range 5 { // other things happen
		w.apply(ingress(t, fmt.Sprintf("b/web%d", i), 0, nil, entryFor("tls", fmt.Sprintf("b%d.example", i))))
		w.until("another host", func() bool { _, ok := w.publisher.Snapshot().Table.Host(fmt.Sprintf("b%d.example", i)); return ok })
	}
	w.mu.Lock()
	if w.writes != 1 {
		t.Errorf("%d writes", w.writes)
	}
	w.forbidden = false
	w.mu.Unlock()
	w.SecretAbsent(tlsRef, true)
	w.until("the Secret", func() bool { return w.secret(tlsRef) != nil && !w.has(ReasonNotWritten) })
}

// TestLeftWithoutSecret: what was issued and could not be written goes on being
// served when nobody asks for it any more, by removing our annotation or by adding
// cert-manager's, until somebody makes the Secret or another one is named.
func TestLeftWithoutSecret(t *testing.T) {
	for name, annotations := range map[string]map[string]string{"nobody asks": nil, "cert-manager is asked": annotated(asks, "own", "cert-manager.io/issuer", "x")} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, issuers(t, ownCA("own")))
			w.mu.Lock()
			w.forbidden = true
			w.mu.Unlock()
			w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
			w.until("the storage is served", func() bool { return w.source("a.example") == "issuer own" })
			serial := w.certs.Select("a.example").Certificate.Leaf.SerialNumber
			w.apply(ingress(t, "a/web", time.Hour, annotations, entryFor("tls", "a.example")))
			w.until("it is said that it is not renewed", func() bool { return w.has(ReasonForeign) })
			if got := w.certs.Select("a.example").Certificate.Leaf.SerialNumber; got.Cmp(serial) != 0 {
				t.Fatalf("%s is served", w.source("a.example"))
			}
			if m := w.Managed(); len(m) != 1 || !m[0].NotManaged || m[0].Serial != serial.Text(16) {
				t.Errorf("%+v", m)
			}
			w.apply(ingress(t, "a/web", time.Hour, annotations, entryFor("other", "b.example")))
			w.until("nothing stands in any more", func() bool { return !w.has(ReasonForeign) && w.source("a.example") == "self-signed" })
			w.apply(ingress(t, "a/web", time.Hour, annotations, entryFor("tls", "a.example")))
			w.until("it is served again", func() bool { return w.source("a.example") == "issuer own" })
			pair := newPair(t, "a.example")
			theirs := &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: pair[0], corev1.TLSPrivateKeyKey: pair[1]}}
			theirs.Namespace, theirs.Name = "a", "tls"
			w.put(theirs)
			w.until("the Secret", func() bool { return w.source("a.example") == "Secret a/tls" && !w.has(ReasonForeign) })
			if m := w.Managed(); name == "nobody asks" && len(m) != 0 || name != "nobody asks" && (len(m) != 1 || !strings.HasPrefix(m[0].Refused, "cert-manager gets")) {
				t.Errorf("%+v", m)
			}
		})
	}
}

// TestLeftEnded: what has ended does not come back for those who do not ask, and
// what another entry has got is not for them.
func TestLeftEnded(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	now := time.Now()
	w.SetRecord(recorded(t, "gone", 1, now.Add(-48*time.Hour), now.Add(-time.Hour), "a.example"))
	w.SetRecord(recorded(t, "gone", 1, now.Add(-48*time.Hour), now.Add(time.Hour), "b.example"))
	w.SetRecord(recorded(t, "gone", 1, now.Add(-48*time.Hour), now.Add(time.Hour), "*.w.example"))
	w.apply(ingress(t, "a/web", time.Hour, nil, entryFor("tls", "a.example"), entryFor("w", "x.w.example"), entryFor("b", "b.example", "c.example")))
	w.until("the valid one", func() bool { return w.source("b.example") == "issuer gone" })
	for _, host := range []string{"a.example", "x.w.example", "c.example"} {
		if got := w.source(host); got != "self-signed" {
			t.Errorf("%s: %s is served", host, got)
		}
	}
}

// about returns the problem with a host's certificate, as its owner reads it.
func (w *town) about(host string) string {
	for _, p := range w.certs.Problems() {
		if strings.Contains(p.Message, "host "+host+" ") {
			return p.Text()
		}
	}
	return ""
}

// TestWhyNotServed: what is said of a host without a valid certificate of its own is
// why Portico does not get one, not what to do by hand.
func TestWhyNotServed(t *testing.T) {
	shut := ownCA("shut")
	shut.Namespaces = []string{"b"}
	w := newTown(t, issuers(t, ownCA("own"), shut, acme.IssuerConfig{Name: "dead", Directory: "https://127.0.0.1:1/dir"}))
	w.mu.Lock()
	w.forbidden = true
	w.mu.Unlock()
	now := time.Now()
	w.SetRecord(recorded(t, "dead", 1, now.Add(-48*time.Hour), now.Add(-time.Hour), "ended.example"))
	w.SetRecord(recorded(t, "dead", 1, now.Add(-48*time.Hour), now.Add(time.Hour), "old.example"))
	w.apply(ingress(t, "a/ended", time.Hour, annotated(asks, "dead"), entryFor("ended", "ended.example")))
	w.apply(ingress(t, "a/added", time.Hour, annotated(asks, "dead"), entryFor("added", "old.example", "new.example")))
	w.apply(ingress(t, "a/refused", time.Hour, annotated(asks, "shut"), entryFor("refused", "refused.example")))
	w.apply(ingress(t, "a/default", time.Hour, annotated(translate.TLSACMEAnnotation, "true"), entryFor("default", "default.example")))
	w.apply(ingress(t, "a/cm", time.Hour, annotated("cert-manager.io/issuer", "x"), entryFor("cm", "cm.example")))
	w.apply(ingress(t, "evil/web", 0, annotated(asks, "own"), entryFor("evil", "mine.example", "old.example")))
	for host, want := range map[string]string{
		"ended.example": "issuer dead did not issue it: ", "new.example": "issuer dead did not issue it: ",
		"refused.example": "issuer shut may not be used from namespace a", "default.example": "no default issuer is configured",
		"cm.example": "cert-manager gets its certificate", "mine.example": "host old.example belongs to namespace a, whose Ingress added is older",
	} {
		w.until(host+": "+want, func() bool { return strings.Contains(w.about(host), want) })
		if got := w.about(host); strings.Contains(got, "kubectl") || strings.Contains(got, "Renew the") || !strings.Contains(got, "portico cert why "+host) {
			t.Errorf("%s: %s", host, got)
		}
		if why := w.certs.Select(host).Why; host != "ended.example" && !strings.Contains(why, want) {
			t.Errorf("%s: %s", host, why)
		}
	}
	if got := w.source("old.example"); got != "issuer dead" {
		t.Errorf("the host that was there before gets %s", got)
	}
	for _, m := range w.Managed() {
		if want := map[string]diag.Reason{"a/refused": ReasonNotPermitted, "a/default": ReasonNoIssuer, "evil/web": ReasonNotOwned}[m.Ingress]; m.Reason != want {
			t.Errorf("%s: reason %q", m.Ingress, m.Reason)
		}
	}
}

// TestRenewalIsShown: when a certificate is renewed is shown also where the CA is to
// be asked before.
func TestRenewalIsShown(t *testing.T) {
	w := newSuburb(t, issuers(t, acme.IssuerConfig{Name: "dead", Directory: "https://127.0.0.1:1/dir"}))
	r := recorded(t, "dead", 1, time.Now().Add(-24*time.Hour), time.Now().Add(89*24*time.Hour), "a.example")
	w.SetRecord(r)
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "dead"), entryFor("tls", "a.example")))
	w.until("the plan", func() bool { return len(w.Managed()) == 1 })
	m := w.Managed()[0]
	if !strings.Contains(m.NextWhy, "asked when to renew") || !m.Renewal.After(time.Now().Add(40*24*time.Hour)) || m.RenewalWhy != "two thirds of its life are over" {
		t.Errorf("%+v", m)
	}
}

// TestFolderSecret: a Secret among manifests is never ours to write, and no label
// makes it so.
func TestFolderSecret(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	opts := w.opts
	opts.Ingresses = nil
	c := NewController(opts)
	ing := ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example"))
	w.apply(ing)
	w.until("the table", func() bool {
		snap := w.publisher.Snapshot()
		if snap == nil {
			return false
		}
		_, ok := snap.Table.Host("a.example")
		return ok
	})
	c.Replace([]*networkingv1.Ingress{ing}, map[certstore.SecretRef]*certstore.Certificate{tlsRef: parsed(t, time.Now().Add(time.Hour), "a.example")})
	if err := c.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := c.Managed(); len(m) != 1 || !m[0].NotManaged || !strings.Contains(m[0].Refused, "among the manifests") {
		t.Errorf("%+v", m)
	}
	for _, text := range problemTexts(c.plan) {
		if strings.Contains(text, "kubectl") || !strings.Contains(text, "remove the Secret from the manifests") {
			t.Error(text)
		}
	}
	if len(c.plan.problems) != 1 {
		t.Errorf("%v", c.plan.problems)
	}
}

// TestForeign: a Secret that is not ours is never written, until it is handed
// over; then it is renewed when it is due, or not for the hosts.
func TestForeign(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	theirs := &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{}}
	theirs.Namespace, theirs.Name = "a", "tls"
	pair := newPair(t, "a.example")
	theirs.Data[corev1.TLSCertKey], theirs.Data[corev1.TLSPrivateKeyKey], theirs.Data["more"] = pair[0], pair[1], []byte("stays")
	w.put(theirs)
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("it is refused", func() bool { m := w.Managed(); return len(m) == 1 && m[0].Refused != "" })
	theirs.Labels = map[string]string{ManagedLabel: "true"}
	w.put(theirs)
	w.until("it is marked as ours", func() bool { return w.secret(tlsRef).Annotations[issuedBy] == "own" })
	w.until("the owner is told", func() bool { return w.wasTold("a/web SecretHandedOver false") == 1 })
	if got := w.secret(tlsRef).Data[corev1.TLSCertKey]; string(got) != string(pair[0]) {
		t.Error("a certificate that is good for long was replaced")
	}
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example", "b.example")))
	w.until("a certificate for both", func() bool { return w.certs.Select("b.example").Certificate.Covers("b.example") })
	w.until("it is written", func() bool { return string(w.secret(tlsRef).Data[corev1.TLSCertKey]) != string(pair[0]) })
	if string(w.secret(tlsRef).Data["more"]) != "stays" {
		t.Error("what else was in the Secret is lost")
	}
}

// recorded is a certificate from an issuer as it is stored for namespace a.
func recorded(t *testing.T, issuer string, sequence int64, from, until time.Time, hosts ...string) *acme.Record {
	t.Helper()
	r := &acme.Record{ID: acme.ID("a", issuer, hosts), Owner: "a", Names: hosts, Issuer: issuer, Sequence: sequence}
	r.Chain, r.Key = testcert.New(t).LeafOf(testcert.ECDSA, from, until, hosts...)
	return r
}

// TestShorterReplacement: what was issued last is served and written, although it
// ends before the one that it replaces; that one does not come back.
func TestShorterReplacement(t *testing.T) {
	w := newTown(t, issuers(t, acme.IssuerConfig{Name: "dead", Directory: "https://127.0.0.1:1/dir"}))
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "dead"), entryFor("tls", "a.example")))
	now := time.Now()
	long := recorded(t, "dead", 7, now.Add(-time.Hour), now.Add(90*24*time.Hour), "a.example")
	short := recorded(t, "dead", 8, now.Add(-time.Hour), now.Add(6*24*time.Hour), "a.example")
	holds := func(r *acme.Record) func() bool {
		return func() bool {
			s := w.secret(tlsRef)
			return s != nil && string(s.Data[corev1.TLSCertKey]) == string(r.Chain) && w.source("a.example") == "Secret a/tls"
		}
	}
	w.SetRecord(long)
	w.until("the first", holds(long))
	w.SetRecord(short)
	w.until("the second", holds(short))
	w.SetRecord(long) // news of a slow watch
	if err := w.reconcile(t.Context()); err != nil || !holds(short)() {
		t.Errorf("the first is served again: %s, %v", w.source("a.example"), err)
	}
	w.Controller.mu.Lock()
	defer w.Controller.mu.Unlock()
	if jobs := w.jobs(nil); len(jobs) > 0 {
		t.Errorf("%s would be written again", jobs[0].ref)
	}
}

// TestLostStorage: where the storage was lost, and a Secret of ours is from a time
// when a clock was ahead, the next certificate is written all the same.
func TestLostStorage(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	now := time.Now()
	was := recorded(t, "own", now.Add(400*24*time.Hour).Unix(), now.Add(-220*time.Second), now.Add(80*time.Second), "a.example") // it is due
	w.put(newTLSSecret(tlsRef, was))
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the next is written", func() bool { return string(w.secret(tlsRef).Data[corev1.TLSCertKey]) != string(was.Chain) })
	if got := parseSequence(w.secret(tlsRef).Annotations[issuedAs]); got != was.Sequence+1 {
		t.Errorf("sequence %d after %d", got, was.Sequence)
	}
	for text, want := range map[string]int64{"7": 7, "": 0, "x": 0, "-1": 0, "9223372036854775807": 0} {
		if got := parseSequence(text); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// TestBetter: which of two certificates is served, that of the Secret or that of
// the storage.
func TestBetter(t *testing.T) {
	day := func(n int) time.Time { return noon.Add(time.Duration(n) * 24 * time.Hour) }
	type cert struct {
		sequence int64
		from, to int // days
		hosts    []string
	}
	a, ab := []string{"a.example"}, []string{"a.example", "b.example"}
	for name, c := range map[string]struct {
		held, stored cert
		by           string // who issued what is held; empty: it was handed over
		want         bool
	}{
		"later by sequence, for less time":      {held: cert{1, -1, 90, a}, stored: cert{2, -1, 6, a}, by: "le", want: true},
		"earlier by sequence, for more time":    {held: cert{2, -1, 6, a}, stored: cert{1, -1, 90, a}, by: "le"},
		"a later one, handed over":              {held: cert{0, -1, 6, a}, stored: cert{1, -9, 90, a}},
		"an earlier one, handed over":           {held: cert{0, -9, 90, a}, stored: cert{1, -1, 6, a}, want: true},
		"one put in by hand under our marks":    {held: cert{1, -1, 6, a}, stored: cert{1, -9, 90, a}, by: "le"},
		"for other hosts":                       {held: cert{2, -1, 90, a}, stored: cert{1, -9, 6, ab}, by: "le", want: true},
		"another issuer's":                      {held: cert{9, -1, 90, a}, stored: cert{1, -2, 60, a}, by: "zero", want: true},
		"another issuer's, and ours has ended":  {held: cert{9, -1, 90, a}, stored: cert{1, -90, -1, a}, by: "zero"},
		"another issuer's, and ours is due":     {held: cert{9, -1, 90, a}, stored: cert{1, -80, 10, a}, by: "zero"},
		"another issuer's, which has ended too": {held: cert{9, -90, -1, a}, stored: cert{1, -80, -2, a}, by: "zero"},
		"ours, and the later one has ended":     {held: cert{1, -9, 80, a}, stored: cert{2, -7, -1, a}, by: "le"},
		"one that has ended":                    {held: cert{2, -9, -1, a}, stored: cert{1, -9, 10, a}, by: "le", want: true},
	} {
		issuer := issuers(t, publicCA("le")).Default
		e := entry{wanted: acme.Wanted{Owner: "a", Issuer: issuer, Names: c.stored.hosts}}
		make := func(k cert) (*acme.Record, *certstore.Certificate) {
			r := recorded(t, "le", k.sequence, day(k.from), day(k.to), k.hosts...)
			parsed, err := certstore.Parse(r.Chain, r.Key)
			if err != nil {
				t.Fatal(err)
			}
			return r, parsed
		}
		_, held := make(c.held)
		r, ours := make(c.stored)
		e.state = secretState{phase: present, managed: true, written: c.by != "", issuer: c.by, sequence: c.held.sequence, cert: held}
		if got := better(stored{Record: r, cert: ours, pair: r}, e, noon); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if better(stored{Record: r, cert: held, pair: r}, e, noon) && covers(held, e.wanted.Names) {
			t.Errorf("%s: a certificate is better than itself", name)
		}
	}
}

// TestOtherIssuer: who asks another issuer gets another certificate at once,
// although that of the first ends later.
func TestOtherIssuer(t *testing.T) {
	short := ownCA("short")
	short.Lifetime = time.Hour
	w := newTown(t, issuers(t, ownCA("own"), short))
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the first", func() bool { return w.secret(tlsRef) != nil })
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "short"), entryFor("tls", "a.example")))
	w.until("the second", func() bool {
		return w.secret(tlsRef).Annotations[issuedBy] == "short" && w.source("a.example") == "Secret a/tls"
	})
	if left := time.Until(w.certs.Select("a.example").Certificate.Leaf.NotAfter); left > 2*time.Hour {
		t.Errorf("a certificate for %v", left)
	}
}

// TestAddedHost: as long as a certificate with a new host is not there, the other
// hosts keep theirs, also where it lies in the storage only.
func TestAddedHost(t *testing.T) {
	dead := acme.IssuerConfig{Name: "dead", Directory: "https://127.0.0.1:1/dir"}
	w := newTown(t, issuers(t, ownCA("own"), dead))
	w.mu.Lock()
	w.forbidden = true
	w.mu.Unlock()
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the first", func() bool { return w.source("a.example") == "issuer own" })
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "dead"), entryFor("tls", "a.example", "b.example")))
	w.until("the second is tried", func() bool { m := w.Managed(); return len(m) == 1 && m[0].Failures > 0 })
	if got := w.source("a.example"); got != "issuer own" {
		t.Errorf("the host that was there before gets %s", got)
	}
	if got := w.certs.Select("b.example"); got.Source != "self-signed" {
		t.Errorf("the new host gets %s", got.Source)
	}
}

// TestStolenHost: a second namespace that claims a host gets no order, no Secret,
// and changes nothing in what is served.
func TestStolenHost(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("the owner's", func() bool { return w.source("a.example") == "Secret a/tls" })
	serial := w.certs.Select("a.example").Certificate.Leaf.SerialNumber
	w.apply(ingress(t, "evil/web", 0, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("it is refused", func() bool { return w.has(ReasonNotOwned) })
	if w.secret(certstore.SecretRef{Namespace: "evil", Name: "tls"}) != nil {
		t.Error("a Secret was written")
	}
	if records, err := w.opts.Storage.Records(t.Context()); err != nil || len(records) != 1 {
		t.Errorf("%d records, %v", len(records), err)
	}
	if got := w.certs.Select("a.example").Certificate.Leaf.SerialNumber; got.Cmp(serial) != 0 {
		t.Error("another certificate is served")
	}
}

// TestNewsOutOfOrder: what a slow watch tells takes no certificate away.
func TestNewsOutOfOrder(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own")))
	w.mu.Lock()
	w.forbidden = true
	w.mu.Unlock()
	w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "own"), entryFor("tls", "a.example")))
	w.until("it is served", func() bool { return w.source("a.example") == "issuer own" })
	records, err := w.opts.Storage.Records(t.Context())
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	old := *records[0]
	old.Chain, old.Key = nil, nil
	w.SetRecord(&old)
	if err := w.reconcile(t.Context()); err != nil || w.source("a.example") != "issuer own" {
		t.Errorf("%v: %s", err, w.source("a.example"))
	}
	w.Controller.mu.Lock()
	defer w.Controller.mu.Unlock()
	jobs := w.jobs(nil)
	for _, j := range jobs {
		if len(j.secret.Data[corev1.TLSCertKey]) == 0 || len(j.secret.Data[corev1.TLSPrivateKeyKey]) == 0 {
			t.Error("a Secret would be written without a certificate")
		}
	}
	if len(jobs) != 1 {
		t.Errorf("%d Secrets would be written", len(jobs))
	}
}

func newPair(t *testing.T, hosts ...string) [2][]byte {
	t.Helper()
	list := issuers(t, ownCA("theirs"))
	w := newTown(t, list)
	w.apply(ingress(t, "x/web", 0, annotated(asks, "theirs"), entryFor("tls", hosts...)))
	ref := certstore.SecretRef{Namespace: "x", Name: "tls"}
	w.until("a pair", func() bool { return w.secret(ref) != nil })
	return [2][]byte{w.secret(ref).Data[corev1.TLSCertKey], w.secret(ref).Data[corev1.TLSPrivateKeyKey]}
}

// What a CA says fits into an Event, cut between runes.
func TestCut(t *testing.T) {
	for in, want := range map[string]int{"short": 5, strings.Repeat("é", 600): 1023, "bad \xff": 7} {
		if got := cut(in); len(got) != want || !strings.HasPrefix(in, strings.TrimRight(got, "…�")) {
			t.Errorf("%q (%d), want %d", got, len(got), want)
		}
	}
}

// TestFolderWithoutDefault: in a folder, who asks the default issuer where there is
// none is told so; for localhost there is one all the same.
func TestFolderWithoutDefault(t *testing.T) {
	w := newTown(t, issuers(t, ownCA("own"), ownCA("other")))
	opts := w.opts
	opts.Ingresses, opts.Local = nil, acme.Local()
	c := NewController(opts)
	var list []*networkingv1.Ingress
	for _, host := range []string{"a.example", "a.localhost"} {
		ing := ingress(t, "a/"+host, time.Hour, annotated(translate.TLSACMEAnnotation, "true"), entryFor(host, host))
		w.apply(ing)
		list = append(list, ing)
		w.until("the table", func() bool {
			snap := w.publisher.Snapshot()
			if snap == nil {
				return false
			}
			_, ok := snap.Table.Host(host)
			return ok
		})
	}
	c.Replace(list, nil)
	if err := c.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Managed() {
		if local := m.Names[0] == "a.localhost"; local != (m.Refused == "" && m.Issuer == "local") || !local && (m.Refused != noDefault || m.Reason != ReasonNoIssuer || !m.NotManaged) {
			t.Errorf("%+v", m)
		}
	}
	if n := len(c.Managed()); n != 2 {
		t.Errorf("%d entries", n)
	}
}
