package acme

import (
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
	"time"
)

// busyServer answers that it is down for an hour.
func busyServer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Retry-After", "3600")
	w.WriteHeader(http.StatusServiceUnavailable)
}

// ended is the record of a certificate for a minute that is about to end, from a
// directory that the issuer has no more, so that nobody is asked when to renew it.
func ended(t *testing.T, w Wanted) *Record {
	t.Helper()
	ca, err := newCA(ownIssuer("own"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := w.record()
	if r.Chain, err = ca.issue(&x509.CertificateRequest{DNSNames: w.Names, PublicKey: ca.key.Public()}, time.Minute, time.Now().Add(-50*time.Second)); err != nil {
		t.Fatal(err)
	}
	r.Directory = "https://gone.example/dir"
	return r
}

// TestStagingInTrouble: a test directory that is down holds up first orders, and no
// renewal, for which it is not asked.
func TestStagingInTrouble(t *testing.T) {
	i := server(t, "le", silence)
	i.Staging = server(t, "staging", busyServer).Directory
	o := newOffice(t)
	renewal := want(i, "old.example")
	if err := o.storage.PutRecord(t.Context(), ended(t, renewal)); err != nil {
		t.Fatal(err)
	}
	o.run()
	first := want(i, "a.example")
	o.Want([]Wanted{first})
	o.until("the first order failed", func() bool { r := o.record(first); return r != nil && r.Failures.Count > 0 })
	if f := o.record(first).Failures; !f.Wide || f.Account != i.account(i.Staging) {
		t.Errorf("%+v", f)
	}
	o.Want([]Wanted{first, renewal, want(i, "b.example")})
	o.until("the renewal", func() bool { return o.count(StepOrdering+" old.example") == 1 })
	if n := o.count(StepOrdering + " b.example"); n != 0 {
		t.Errorf("%d orders at a directory that is down", n)
	}
}

// TestSlowStaging: a test directory that does not answer takes no room from renewals
// either.
func TestSlowStaging(t *testing.T) {
	i := server(t, "le", silence)
	i.Staging = server(t, "staging", silence).Directory
	o := newOffice(t, func(o *Options) { o.InFlight = 1 })
	renewal := want(i, "old.example")
	if err := o.storage.PutRecord(t.Context(), ended(t, renewal)); err != nil {
		t.Fatal(err)
	}
	stop := o.run()
	defer stop()
	list := []Wanted{want(i, "a.example"), want(i, "b.example")}
	o.Want(list)
	o.until("a first order is in flight", func() bool { return o.count(StepOrdering) == 1 })
	o.Want(append(list, renewal))
	o.until("the renewal", func() bool { return o.count(StepOrdering+" old.example") == 1 })
	if n := o.count(StepOrdering); n != 2 {
		t.Errorf("%d orders, with one of each kind at a time", n)
	}
}

// TestDirectoryInTrouble: the other way round, everything waits.
func TestDirectoryInTrouble(t *testing.T) {
	i := ownIssuer("le")
	i.Directory, i.Staging = "https://ca.example/dir", "https://ca.example/staging"
	now := time.Now()
	failed, held := want(i, "a.example").record(), new(Holds)
	failed.Failures = Failures{Count: 1, Last: now, Reason: ReasonUnavailable, RetryAfter: now.Add(time.Hour), Wide: true, Account: i.account(i.Directory)}
	held.Add(failed, now, now)
	w := want(i, "old.example")
	for name, r := range map[string]*Record{"a first order": nil, "a renewal": ended(t, w)} {
		if until := held.Until(w, r); !until.Equal(failed.Failures.RetryAfter) {
			t.Errorf("%s waits until %s", name, until)
		}
	}
	if until := held.Until(want(&Issuer{Name: "other", Directory: i.Directory}, "b.example"), nil); !until.IsZero() {
		t.Errorf("another issuer waits until %s", until)
	}
}

// TestAnotherAccount: with another directory, address or binding, what the last
// one said holds up nothing, also where it was said of these names alone.
func TestAnotherAccount(t *testing.T) {
	was := ownIssuer("le")
	was.Directory, was.Email, was.EAB = "https://ca.example/dir", "a@example.com", &EAB{"kid", "mac"}
	now := time.Now()
	r := want(was, "a.example").record()
	r.Failures = Failures{Count: 9, Last: now, Reason: ReasonRefused, RetryAfter: now.Add(3 * time.Hour), Wide: true, Account: was.account(was.Directory),
		Validations: map[string][]time.Time{"a.example": {now}}}
	for name, c := range map[string]struct {
		change func(*Issuer)
		waits  bool
	}{
		"the same":         {func(*Issuer) {}, true},
		"another timeout":  {func(i *Issuer) { i.Timeout = time.Hour }, true},
		"a test directory": {func(i *Issuer) { i.Staging = "https://ca.example/staging" }, true},
		"directory":        {func(i *Issuer) { i.Directory = "https://other.example/dir" }, false},
		"address":          {func(i *Issuer) { i.Email = "b@example.com" }, false},
		"binding":          {func(i *Issuer) { i.EAB = &EAB{"other", "mac"} }, false},
		"key of a binding": {func(i *Issuer) { i.EAB = &EAB{"kid", "right"} }, false},
		"no binding":       {func(i *Issuer) { i.EAB = nil }, false},
	} {
		i := *was
		c.change(&i)
		o := newOffice(t)
		o.reset([]*Record{r})
		w, other := want(&i, "a.example"), want(&i, "b.example")
		o.Want([]Wanted{w, other})
		o.Manager.mu.Lock()
		for _, p := range o.plan(now) {
			if waits := p.action.At.After(now.Add(time.Minute)); waits != c.waits {
				t.Errorf("%s: %v is ordered in %s", name, p.wanted.Names, p.action.At.Sub(now))
			}
		}
		o.Manager.mu.Unlock()
		o.note(w.ID(), errors.New("no space"))
		if n := o.record(w).Failures; n.Wide != c.waits || (n.Count == 10) != c.waits || len(n.Validations) != 1 {
			t.Errorf("%s: after another failure %+v", name, n)
		}
		o.close()
	}
}

// TestHoldOutlivesWish: what a CA has said of the account holds, also when nobody
// wants the certificate any more for which it was said.
func TestHoldOutlivesWish(t *testing.T) {
	i := ownIssuer("le")
	i.Directory = "https://ca.example/dir"
	var ahead time.Duration
	o := newOffice(t, func(o *Options) { o.Now = func() time.Time { return time.Now().Add(ahead) } })
	r := want(i, "a.example").record()
	r.Failures = Failures{Count: 1, Last: time.Now(), Reason: ReasonRateLimited, RetryAfter: time.Now().Add(3 * day), Wide: true, Account: i.account(i.Directory)}
	if err := o.storage.PutRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	o.reset([]*Record{r})
	defer o.close()
	for _, c := range []struct {
		ahead time.Duration
		left  int
	}{{0, 1}, {2 * day, 1}, {4 * day, 0}} {
		ahead = c.ahead
		o.sweep(t.Context())
		if list, err := o.storage.Records(t.Context()); err != nil || len(list) != c.left {
			t.Errorf("%v later there are %d records, %v", c.ahead, len(list), err)
		}
	}
}
