package acme

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/pebble"
	"github.com/portico-ingress/portico/tls/acme"
)

func wanted(i *acme.Issuer, names ...string) acme.Wanted {
	return acme.Wanted{Owner: "shop", Issuer: i, Names: names}
}

// failed waits for a failure of something wanted.
func (r *rig) failed(w acme.Wanted) acme.Failures {
	r.t.Helper()
	var f acme.Failures
	r.until("a failure", func() bool {
		rec, err := r.storage.Record(r.t.Context(), w.ID())
		if err != nil || rec.Failures.Count == 0 {
			return false
		}
		f = rec.Failures
		return true
	})
	return f
}

// TestBadNonces: every name gets its certificate, with one order, although a quarter
// of all good nonces are refused. With half of them one request in a thousand would
// be refused ten times, and given up.
func TestBadNonces(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{NonceReject: 25})
	i := issuer(t, ca)
	r.start()
	var list []acme.Wanted
	for n := range 3 {
		list = append(list, wanted(i, fmt.Sprintf("h%d.example", n)))
	}
	r.manager.Want(list)
	for _, w := range list {
		r.certificate(w)
		if n := ca.Orders()[w.Names[0]]; n != 1 {
			t.Errorf("%d orders for %s", n, w.Names[0])
		}
	}
}

// TestOverlap: two sets with a host in common are ordered one after the other,
// so that neither loses its challenge.
func TestOverlap(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{Sleep: 2})
	i := issuer(t, ca)
	r.start()
	list := []acme.Wanted{wanted(i, "a.example"), wanted(i, "a.example", "b.example"), wanted(i, "a.example", "c.example")}
	r.manager.Want(list)
	for _, w := range list {
		if rec := r.certificate(w); rec.Failures.Count > 0 {
			t.Errorf("%v: %+v", w.Names, rec.Failures)
		}
		if n := ca.Orders()[strings.Join(w.Names, ",")]; n != 1 {
			t.Errorf("%d orders for %v", n, w.Names)
		}
	}
}

func TestAccountBinding(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{EAB: map[string]string{"kid": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}})
	with, without := issuer(t, ca), issuer(t, ca)
	with.Name, without.Name = "with", "without"
	with.EAB = &acme.EAB{KeyID: "kid", MACKey: "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}
	r.start()
	bound, unbound := wanted(with, "a.example"), wanted(without, "b.example")
	r.manager.Want([]acme.Wanted{bound, unbound})
	r.certificate(bound)
	if f := r.failed(unbound); f.Reason != acme.ReasonRefused || !strings.Contains(f.Message, "externalAccountRequired") || !strings.Contains(f.Message, "give the issuer eab") {
		t.Errorf("%+v", f)
	}
}

// TestUnknownProfile: a profile that the CA does not offer is named beside those that
// it does.
func TestUnknownProfile(t *testing.T) {
	r := newRig(t)
	w := wanted(issuer(t, r.pebble(pebble.Options{}), func(c *acme.IssuerConfig) { c.Profile = "nope" }), "a.example")
	r.start()
	r.manager.Want([]acme.Wanted{w})
	if f := r.failed(w); f.Reason != acme.ReasonRefused || !strings.Contains(f.Message, "the issuer's profile nope; it has") || !strings.Contains(f.Message, "shortlived") {
		t.Errorf("%+v", f)
	}
}

// TestOtherRoot: who prefers a root that no chain leads to is told, and gets the
// certificate.
func TestOtherRoot(t *testing.T) {
	r := newRig(t)
	w := wanted(issuer(t, r.pebble(pebble.Options{}), func(c *acme.IssuerConfig) { c.PreferredRoot = "Nobody" }), "a.example")
	r.start()
	r.manager.Want([]acme.Wanted{w})
	r.certificate(w)
	r.until("it is told", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.steps, func(s string) bool {
			return strings.HasPrefix(s, acme.StepIssued) && strings.Contains(s, "no chain of it leads to preferredRoot Nobody, this one leads to Pebble Root")
		})
	})
}

// TestChainAndProfile: the chain to the root that is preferred, in the profile
// that is asked for, with the kind of key that is configured.
func TestChainAndProfile(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{AlternateRoots: 1})
	root := ca.Root(1)
	i := issuer(t, ca, func(c *acme.IssuerConfig) {
		c.PreferredRoot, c.Profile, c.KeyType = root.Subject.CommonName, "shortlived", "rsa2048"
	})
	r.start()
	w := wanted(i, "a.example")
	r.manager.Want([]acme.Wanted{w})
	rec := r.certificate(w)
	leaf := rec.Leaf()
	if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); life != 6*24*time.Hour || leaf.PublicKeyAlgorithm.String() != "RSA" {
		t.Errorf("%v, %v", life, leaf.PublicKeyAlgorithm)
	}
	if !leads(rec.Chain, root) {
		t.Error("the chain leads to another root")
	}
}

// TestStagingFirst: the real directory is asked for nothing before the test
// directory has issued.
func TestStagingFirst(t *testing.T) {
	r := newRig(t)
	production, staging := r.pebble(pebble.Options{}), r.pebble(pebble.Options{})
	refuse := make(chan struct{})
	staging.Hook(func(c *pebble.Call) (v pebble.Verdict) {
		select {
		case <-refuse:
		default:
			if c.Kind == "order" {
				v.Status, v.Problem = http.StatusForbidden, "rejectedIdentifier"
			}
		}
		return v
	})
	i := issuer(t, production)
	i.Staging = staging.URL
	i.Roots.AddCert(staging.CA.Cert)
	stop := r.start()
	w := wanted(i, "a.example")
	r.manager.Want([]acme.Wanted{w})
	if f := r.failed(w); f.Reason != acme.ReasonRefused {
		t.Errorf("%+v", f)
	}
	if n := len(production.Calls("order")); n != 0 {
		t.Errorf("%d orders at the real directory", n)
	}
	stop()
	close(refuse)
	other := wanted(i, "b.example") // the first one has to wait
	r.start()
	r.manager.Want([]acme.Wanted{other})
	r.certificate(other)
	if s, p := staging.Orders()["b.example"], production.Orders()["b.example"]; s != 1 || p != 1 {
		t.Errorf("%d orders for a test, %d real ones", s, p)
	}
}

// TestOtherDirectory: an issuer that is given another directory and another e-mail
// address renews there, with an account of its own, and says nothing of a
// certificate that nobody knows there.
func TestOtherDirectory(t *testing.T) {
	r := newRig(t)
	before, after := r.pebble(pebble.Options{Lifetime: 10 * time.Second}), r.pebble(pebble.Options{})
	configured := func(ca *pebble.Server, email string) *acme.Issuer {
		return issuer(t, ca, func(c *acme.IssuerConfig) { c.Profile, c.Email = "default", email })
	}
	stop := r.start()
	w := wanted(configured(before, "someone@example.com"), "a.example")
	r.manager.Want([]acme.Wanted{w})
	first := r.certificate(w)
	stop()
	r.start()
	w.Issuer = configured(after, "other@example.com")
	r.manager.Want([]acme.Wanted{w})
	r.until("renewal", func() bool {
		rec, err := r.storage.Record(t.Context(), w.ID())
		return err == nil && !rec.Leaf().Equal(first.Leaf())
	})
	for _, c := range after.Calls("order") {
		var order struct{ Replaces string }
		if err := json.Unmarshal(c.Body, &order); err != nil || order.Replaces != "" || c.Status != http.StatusCreated {
			t.Errorf("an order that replaces %q: %d, %v", order.Replaces, c.Status, err)
		}
	}
	for _, c := range after.Calls("account") {
		if c.Status == http.StatusCreated && !strings.Contains(string(c.Body), "other@example.com") {
			t.Errorf("an account by %s", c.Body)
		}
	}
}

// TestOtherEmail: another e-mail address is another account; certificates stay,
// and are renewed and joined by others.
func TestOtherEmail(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{AuthzReuse: 100})
	var list []acme.Wanted
	for n, email := range []string{"someone@example.com", "other@example.com", "someone@example.com"} {
		stop := r.start()
		i := issuer(t, ca, func(c *acme.IssuerConfig) { c.Email = email })
		for k := range list {
			list[k].Issuer = i
		}
		list = append(list, wanted(i, "a.example", fmt.Sprintf("b%d.example", n)))
		r.manager.Want(list)
		for _, w := range list {
			if rec := r.certificate(w); rec.Failures.Count > 0 {
				t.Errorf("%v: %+v", w.Names, rec.Failures)
			}
		}
		stop()
	}
	made := 0
	for _, c := range ca.Calls("account") {
		if c.Status == http.StatusCreated {
			made++
		}
	}
	if made != 2 {
		t.Errorf("%d accounts for two addresses", made)
	}
	for names, n := range ca.Orders() {
		if n != 1 {
			t.Errorf("%d orders for %s", n, names)
		}
	}
}

// TestForgottenAccount: an account that a CA has lost is made anew, with the same
// key, and the order succeeds. What the test directory has lost costs nothing at
// the real one.
func TestForgottenAccount(t *testing.T) {
	r := newRig(t)
	production, staging := r.pebble(pebble.Options{}), r.pebble(pebble.Options{})
	i := issuer(t, production)
	i.Staging = staging.URL
	i.Roots.AddCert(staging.CA.Cert)
	r.start()
	list := []acme.Wanted{wanted(i, "a.example")}
	r.manager.Want(list)
	r.certificate(list[0])
	for n, ca := range []*pebble.Server{staging, production} {
		known := [2]int{len(staging.Calls("account")), len(production.Calls("account"))}
		forget(ca)
		w := wanted(i, fmt.Sprintf("b%d.example", n))
		list = append(list, w)
		r.manager.Want(list)
		r.until("the certificate", func() bool {
			rec, err := r.storage.Record(t.Context(), w.ID())
			return err == nil && (rec.Leaf() != nil || rec.Failures.Count > 0)
		})
		if rec := r.certificate(w); rec.Failures.Count > 0 {
			t.Errorf("%+v", rec.Failures)
		}
		if other := 1 - n; [2]int{len(staging.Calls("account")), len(production.Calls("account"))}[other] != known[other] {
			t.Error("the other directory's account was made anew")
		}
	}
}

// forget has a CA not know the account that it is asked by, until one is made.
func forget(ca *pebble.Server) {
	var made, old atomic.Bool // old: the order that goes on with the old account has come
	ca.Hook(func(c *pebble.Call) (v pebble.Verdict) {
		switch {
		case c.Kind == "account":
			made.Store(true)
		case c.Kind == "order" && !c.After && (!made.Load() || !old.Load()):
			old.Store(made.Load())
			v = pebble.Verdict{Status: http.StatusBadRequest, Problem: "accountDoesNotExist"}
		}
		return v
	})
}

// limit has newOrder refused for a day.
func limit(detail string) func(*pebble.Call) pebble.Verdict {
	return func(c *pebble.Call) (v pebble.Verdict) {
		if c.Kind == "order" {
			v = pebble.Verdict{Status: http.StatusTooManyRequests, Problem: "rateLimited", Detail: detail, Header: http.Header{"Retry-After": {"86400"}}}
		}
		return v
	}
}

// TestRateLimited: the CA's words are kept, and it is not asked for these names
// again before it wants to be. Other names are not held up.
func TestRateLimited(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{})
	ca.Hook(limit("too many certificates already issued for a.example"))
	r.start()
	limited, other := wanted(issuer(t, ca), "a.example"), wanted(issuer(t, ca), "b.example")
	r.manager.Want([]acme.Wanted{limited})
	f := r.failed(limited)
	if left := time.Until(f.RetryAfter); f.Reason != acme.ReasonRateLimited || f.Wide || !strings.Contains(f.Message, "too many certificates") || left < 23*time.Hour {
		t.Errorf("%+v", f)
	}
	ca.Hook(nil)
	r.manager.Want([]acme.Wanted{limited, other})
	r.certificate(other)
	rec, err := r.storage.Record(t.Context(), limited.ID())
	if err != nil || rec.Failures.Count != 1 || ca.Orders()["a.example"] != 0 {
		t.Errorf("%+v, %v, %v", rec.Failures, ca.Orders(), err)
	}
}

// TestAccountRateLimited: where the CA has had enough of the account, nothing is
// ordered from that issuer, after a restart neither; others are not held up.
func TestAccountRateLimited(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{})
	ca.Hook(limit("too many new orders from this account"))
	i, second := issuer(t, ca), issuer(t, ca)
	second.Name = "second"
	stop := r.start()
	first := wanted(i, "a.example")
	r.manager.Want([]acme.Wanted{first})
	if f := r.failed(first); !f.Wide {
		t.Errorf("%+v", f)
	}
	ca.Hook(nil)
	for range 2 {
		other := wanted(second, fmt.Sprintf("b%d.example", len(ca.Orders())))
		r.manager.Want([]acme.Wanted{first, wanted(i, "c.example"), wanted(i, "d.example"), other})
		r.certificate(other)
		stop()
		stop = r.start()
	}
	for names := range ca.Orders() {
		if !strings.HasPrefix(names, "b") {
			t.Errorf("an order for %s", names)
		}
	}
}

// TestClocksDiffer: a certificate that is due as soon as it comes, because our
// clock is ahead of the CA's, is told and does not make order after order.
func TestClocksDiffer(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{Lifetime: time.Minute})
	i := issuer(t, ca, func(c *acme.IssuerConfig) { c.Profile = "default" })
	r.start(func(o *acme.Options) { o.Now = func() time.Time { return time.Now().Add(time.Hour) } })
	var list []acme.Wanted
	for _, host := range []string{"a.example", "b.example", "c.example"} { // one after another: there is time for more orders
		w := wanted(i, host)
		list = append(list, w)
		r.manager.Want(list)
		r.until("it is told", func() bool { return r.told(acme.StepHasty + " " + host) })
	}
	for host, n := range ca.Orders() {
		if n != 1 {
			t.Errorf("%d orders for %s", n, host)
		}
	}
}

// TestHangs: a CA that does not go on is left after the issuer's timeout.
func TestHangs(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{})
	done := make(chan struct{})
	defer close(done)
	ca.Hook(func(c *pebble.Call) (v pebble.Verdict) {
		if c.Kind == "finalize" {
			<-done
		}
		return v
	})
	r.start()
	i := issuer(t, ca)
	i.Timeout = 3 * time.Second // less than can be configured
	w := wanted(i, "a.example")
	r.manager.Want([]acme.Wanted{w})
	if f := r.failed(w); f.Reason != acme.ReasonUnavailable {
		t.Errorf("%+v", f)
	}
}

// TestStuckInProcessing: a CA that never gets done with an order is left after
// the issuer's timeout, with one order, and serves others meanwhile.
func TestStuckInProcessing(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{})
	var stuck sync.Map // the numbers of orders for stuck.example
	ca.Hook(func(c *pebble.Call) (v pebble.Verdict) {
		if c.Kind == "order" && c.After && c.Names() == "stuck.example" {
			stuck.Store(path.Base(c.Header.Get("Location")), true)
		}
		if _, is := stuck.Load(path.Base(c.Path)); is && c.After && (c.Kind == "finalize" || c.Kind == "poll") {
			v.Rewrite = func(answer []byte) []byte {
				return bytes.ReplaceAll(answer, []byte(`"status": "valid"`), []byte(`"status": "processing"`))
			}
		}
		return v
	})
	r.start()
	i := issuer(t, ca)
	i.Timeout = 5 * time.Second // less than can be configured
	w, other := wanted(i, "stuck.example"), wanted(i, "other.example")
	r.manager.Want([]acme.Wanted{w, other})
	if f := r.failed(w); f.Reason != acme.ReasonUnavailable || !strings.Contains(f.Message, "not done within 5s") || !strings.Contains(f.Message, "finalizing order") {
		t.Errorf("%+v", f)
	}
	r.certificate(other)
	if n := ca.Orders()["stuck.example"]; n != 1 {
		t.Errorf("%d orders", n)
	}
}

// TestNotValidated: a host that does not answer its challenge fails with the
// CA's words, and is not validated again at once.
func TestNotValidated(t *testing.T) {
	r := newRig(t)
	_, nobody, _ := net.SplitHostPort(pebble.FreeAddress(t))
	unused, _ := strconv.Atoi(nobody)
	ca := pebble.Start(t, pebble.Options{HTTPPort: unused, TLSPort: unused})
	r.start()
	w := wanted(issuer(t, ca), "a.example")
	r.manager.Want([]acme.Wanted{w})
	f := r.failed(w)
	if f.Reason != acme.ReasonValidation || !strings.HasPrefix(f.Message, "a.example: ") || len(f.Validations["a.example"]) != 1 {
		t.Errorf("%+v", f)
	}
}

// TestRenewal: a certificate is renewed as the CA suggests, and, where the CA is
// gone for longer than a lifetime, as soon as it is back. Every order says what it
// replaces.
func TestRenewal(t *testing.T) {
	r := newRig(t)
	ca := r.pebble(pebble.Options{Lifetime: 20 * time.Second})
	r.start()
	w := wanted(issuer(t, ca, func(c *acme.IssuerConfig) { c.Profile = "default" }), "a.example") // pebble's own choice is any
	r.manager.Want([]acme.Wanted{w})
	first := r.certificate(w)
	r.until("renewal", func() bool {
		rec, err := r.storage.Record(t.Context(), w.ID())
		return err == nil && !rec.Leaf().Equal(first.Leaf())
	})
	ca.Down(true)
	last := r.certificate(w)
	r.until("the end of the certificate", func() bool { return time.Now().After(last.Leaf().NotAfter.Add(time.Second)) })
	r.until("a failure of it", func() bool {
		rec, err := r.storage.Record(t.Context(), w.ID())
		return err == nil && rec.Failures.Count > 0 && len(rec.Key) > 0
	})
	ca.Down(false)
	r.until("renewal after the end", func() bool {
		rec, err := r.storage.Record(t.Context(), w.ID())
		return err == nil && time.Now().Before(rec.Leaf().NotAfter) && rec.Failures.Count == 0
	})
	for n, c := range ca.Calls("order") {
		var order struct{ Replaces string }
		if err := json.Unmarshal(c.Body, &order); err != nil || (order.Replaces == "") != (n == 0) && c.Status == http.StatusCreated {
			t.Errorf("order %d replaces %q, %v", n, order.Replaces, err)
		}
	}
	if len(ca.Calls("renewal")) == 0 {
		t.Error("the CA was never asked when to renew")
	}
}
