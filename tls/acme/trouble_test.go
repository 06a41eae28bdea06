package acme

import (
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
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

// TestNoDirectory: what is no ACME server's answer stays so until the issuer is
// configured otherwise, and is not asked for every few seconds.
func TestNoDirectory(t *testing.T) {
	say := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	stranger := server(t, "stranger", say(200, "application/json", "{}"))
	stranger.Roots = nil
	for name, c := range map[string]struct {
		issuer *Issuer
		reason Reason
		want   string
	}{
		"404":        {server(t, "le", say(404, "text/plain", "no")), ReasonRefused, "HTTP 404, as no ACME server does; check the issuer's directory"},
		"HTML":       {server(t, "le", say(200, "text/html", "<html>")), ReasonRefused, "check the issuer's directory (provisioning client: response Content-Type is text/html)"},
		"no JSON":    {server(t, "le", say(200, "application/json", "<")), ReasonRefused, "check the issuer's directory"},
		"other JSON": {server(t, "le", say(200, "application/json", "{}")), ReasonRefused, "check the issuer's directory"},
		"502":        {server(t, "le", say(502, "text/html", "<html>")), ReasonUnavailable, "HTTP 502"},
		"429":        {server(t, "le", say(429, "text/html", "<html>")), ReasonUnavailable, "HTTP 429"},
		"another CA": {stranger, ReasonRefused, "caBundle"},
		"nobody":     {&Issuer{Name: "le", Directory: "https://127.0.0.1:1/dir", KeyType: DefaultKeyType, Challenges: []string{HTTP01}, Timeout: time.Minute}, ReasonUnavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			o, w := newOffice(t), want(c.issuer, "a.example")
			o.Want([]Wanted{w})
			defer o.run()()
			o.until("a failure", func() bool { r := o.record(w); return r != nil && r.Failures.Count > 0 })
			if f := o.record(w).Failures; f.Reason != c.reason || !strings.Contains(f.Message, c.want) {
				t.Errorf("%s: %s", f.Reason, f.Message)
			}
		})
	}
}

// TestRefusedBeforeStart: what was refused is tried once more by a process that may
// be configured otherwise, and then waits as before.
func TestRefusedBeforeStart(t *testing.T) {
	now := time.Now()
	f := Facts{ID: "x", Now: now, Started: now.Add(-time.Hour), Failures: Failures{Count: 9, Last: now.Add(-time.Minute), Reason: ReasonRefused}}
	if at := Next(f).At; at.Before(now.Add(5 * time.Hour)) {
		t.Errorf("tried again in %s", at.Sub(now))
	}
	f.Started = now
	if at := Next(f).At; at.After(now.Add(time.Minute)) {
		t.Errorf("after a start, tried again in %s", at.Sub(now))
	}
	f.Failures.RetryAfter = now.Add(time.Hour)
	if at := Next(f).At; at.Before(now.Add(time.Hour)) {
		t.Errorf("the CA is asked in %s, and not before an hour", at.Sub(now))
	}
}

// TestQuiet: what certmagic says of its work is for level debug; its warnings, and
// what we say, are not.
func TestQuiet(t *testing.T) {
	issuer := server(t, "le", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"newNonce": "https://127.0.0.1:1/", "newAccount": "https://127.0.0.1:1/", "newOrder": "https://127.0.0.1:1/"}`))
	})
	said := func(level zapcore.Level) (ours, theirs int) {
		core, logs := observer.New(level)
		o, w := newOffice(t, func(opts *Options) { opts.Log = zap.New(core) }), want(issuer, "a.example")
		o.Want([]Wanted{w})
		stop := o.run()
		o.until("a failure", func() bool { r := o.record(w); return r != nil && r.Failures.Count > 0 })
		stop()
		for _, e := range logs.All() {
			switch {
			case e.Message == "ordering a certificate":
				ours++
			case strings.Contains(e.Message, "ACME account"):
				theirs++
			}
		}
		return ours, theirs
	}
	if ours, theirs := said(zapcore.InfoLevel); ours == 0 || theirs > 0 {
		t.Errorf("at level info: %d lines of ours, %d of certmagic", ours, theirs)
	}
	if ours, theirs := said(zapcore.DebugLevel); ours == 0 || theirs == 0 {
		t.Errorf("at level debug: %d lines of ours, %d of certmagic", ours, theirs)
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
