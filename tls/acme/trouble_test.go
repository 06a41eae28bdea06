package acme

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"
	"github.com/prometheus/client_golang/prometheus"
)

// TestUnstoredAnswer: a CA that was asked when to renew is not asked again at once
// because its answer could not be stored.
func TestUnstoredAnswer(t *testing.T) {
	now := time.Now()
	f := Facts{ID: "x", Now: now, Started: now.Add(-day), Asks: true, NotBefore: now.Add(-day), NotAfter: now.Add(89 * day)}
	if a := Next(f); a.Kind != AskRenewal || a.At.After(now) {
		t.Errorf("before any failure: %v in %s", a.Kind, a.At.Sub(now))
	}
	f.Failures.add(&failure{reason: ReasonStorage, message: "no space"}, nil, now)
	if a := Next(f); a.Kind != AskRenewal || !a.At.After(now.Add(time.Second)) {
		t.Errorf("after one: %v in %s", a.Kind, a.At.Sub(now))
	}
}

// TestLostRecord: a record that is deleted under the one who orders is missed, and
// not looked for again and again.
func TestLostRecord(t *testing.T) {
	o := newOffice(t)
	w := want(ownIssuer("own"), "a.example")
	now := time.Now()
	ca, err := newCA(w.Issuer, now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.issue(&x509.CertificateRequest{DNSNames: w.Names, PublicKey: ca.key.Public()}, 90*day, now.Add(-30*day))
	if err != nil {
		t.Fatal(err)
	}
	r := w.record()
	r.Chain, r.Version = chain, "1"
	w.Have = r.Leaf()
	o.reset([]*Record{r})
	defer o.close()
	o.Want([]Wanted{w})
	if err := (&order{m: o.Manager, wanted: w}).place(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.record(w); got != nil {
		t.Errorf("it is still thought to be there: %+v", got)
	}
}

// TestNoteKeepsHold: what a CA has said holds also after the storage failed.
func TestNoteKeepsHold(t *testing.T) {
	o := newOffice(t)
	w := want(ownIssuer("le"), "a.example")
	r := w.record()
	until := time.Now().Add(3 * time.Hour)
	r.Failures = Failures{Count: 1, Last: time.Now(), Reason: ReasonRateLimited, RetryAfter: until, Wide: true, Account: w.Issuer.account(w.Issuer.Directory)}
	o.reset([]*Record{r})
	defer o.close()
	o.Want([]Wanted{w})
	o.note(w.ID(), errors.New("no space"))
	o.Manager.mu.Lock()
	defer o.Manager.mu.Unlock()
	if held := o.held(time.Now()).Until(w, nil); held.Before(until) {
		t.Errorf("held until %s, want %s", held, until)
	}
}

// TestFloorBeforeEnd: the next certificate of minutes may be ordered before this one
// ends, however long ago the CA says that it began.
func TestFloorBeforeEnd(t *testing.T) {
	now := time.Now()
	for _, hasty := range []int{0, 12} {
		f := Facts{ID: "x", Now: now, Issued: now, Hasty: hasty, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(20 * time.Minute)}
		if at := Next(f).At; at.After(now.Add(15 * time.Minute)) {
			t.Errorf("hasty %d: ordered in %s, and it ends in 20m", hasty, at.Sub(now))
		}
	}
}

// TestStapleClockSetBack: what was to be asked in a moment by a clock that was
// ahead is asked when it is right again.
func TestStapleClockSetBack(t *testing.T) {
	now := time.Now()
	k := &staple{}
	k.learn(nil, nil, errors.New("the response ended"), now.Add(365*day))
	s := NewStapler(StaplerOptions{})
	s.staples["x"] = k
	if due, _, _ := s.due(); len(due) != 1 {
		t.Errorf("%d are due; it is asked in %s", len(due), k.next.Sub(now))
	}
}

// TestSuffixOrder: a list in another order is the same list, and no reason for
// another CA.
func TestSuffixOrder(t *testing.T) {
	s, i := newFiles(t, t.TempDir()), ownIssuer("own")
	for _, suffixes := range [][]string{{"a.example", "b.example"}, {"b.example", "a.example"}} {
		i.Suffixes = suffixes
		list, _, err := openCA(t.Context(), s, i, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 {
			t.Errorf("%v: %d CAs", suffixes, len(list))
		}
	}
}

// TestWordsOfOneLine: what a CA says breaks no table and forges no line, however
// long it is.
func TestWordsOfOneLine(t *testing.T) {
	f := classify(acmelib.Problem{Type: acmelib.ProblemTypeMalformed, Detail: "no\r\n\x1b[1mgood.example\tissued" + strings.Repeat(" and more", 1000)})
	if len(f.message) > maxMessage || !strings.HasPrefix(f.message, "malformed: no [1mgood.example issued and more") || strings.ContainsAny(f.message, "\r\n\t\x1b") {
		t.Errorf("%q", f.message)
	}
}

// TestAttemptsAreCounted: each attempt ends as a certificate or as a failure.
func TestAttemptsAreCounted(t *testing.T) {
	metrics := NewMetrics()
	o := newOffice(t, func(opts *Options) { opts.Metrics = metrics })
	own, dead := want(ownIssuer("own"), "a.example"), want(&Issuer{Name: "dead", Directory: "https://127.0.0.1:1/dir", KeyType: DefaultKeyType,
		Challenges: []string{HTTP01}, Timeout: time.Minute}, "b.example")
	o.Want([]Wanted{own, dead})
	stop := o.run()
	o.until("one of each", func() bool { r := o.record(dead); return o.issued(own)() && r != nil && r.Failures.Count > 0 })
	stop()
	failed := o.record(dead).Failures.Count
	registry, counts := prometheus.NewRegistry(), make(map[string]int)
	registry.MustRegister(metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			counts[name] = int(m.GetCounter().GetValue())
		}
	}
	if counts["portico_acme_attempts_total own"] != 1 || counts["portico_acme_certificates_total own"] != 1 ||
		counts["portico_acme_attempts_total dead"] < failed || counts["portico_acme_failures_total dead unavailable"] != failed {
		t.Errorf("%v, and %d failures are known", counts, failed)
	}
}
