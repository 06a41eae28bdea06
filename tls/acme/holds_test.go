package acme

import (
	"crypto/x509"
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
