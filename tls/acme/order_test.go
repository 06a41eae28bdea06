package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

func TestClassify(t *testing.T) {
	of := func(host string) acmelib.Authorization {
		return acmelib.Authorization{Identifier: acmelib.Identifier{Type: "dns", Value: host}}
	}
	urn := acmelib.ProblemTypeNamespace
	for _, c := range []struct {
		err     error
		reason  Reason
		host    string
		message string
	}{
		{acmelib.Problem{Type: urn + "unauthorized", Detail: "wrong text", Status: 403, Resource: of("a.example")}, ReasonValidation, "a.example", "a.example: unauthorized: wrong text"},
		{acmelib.Problem{Type: acmelib.ProblemTypeRateLimited, Detail: "enough", Status: 429}, ReasonRateLimited, "", "rateLimited: enough"},
		{acmelib.Problem{Type: acmelib.ProblemTypeServerInternal, Status: 500, Resource: of("a.example")}, ReasonUnavailable, "a.example", "serverInternal"},
		{acmelib.Problem{Type: acmelib.ProblemTypeBadNonce, Status: 400}, ReasonUnavailable, "", "badNonce"},
		{acmelib.Problem{Type: urn + "rejectedIdentifier", Detail: "never", Status: 400, Subproblems: []acmelib.Subproblem{{Problem: acmelib.Problem{Detail: "blocked"}, Identifier: acmelib.Identifier{Value: "b.example"}}}}, ReasonRefused, "", "rejectedIdentifier: never; b.example: blocked"},
		{acmelib.Problem{Type: urn + "unauthorized", Detail: "An account with the provided public key exists but is deactivated", Status: 403}, ReasonRefused, "", "another email or name"},
		{acmelib.Problem{Type: urn + "unauthorized", Detail: "External account binding is not valid", Status: 403}, ReasonRefused, "", "check the issuer's eab"},
		{acmelib.Problem{Type: acmelib.ProblemTypeExternalAccountRequired, Detail: "bind it", Status: 403}, ReasonRefused, "", "bind it; give the issuer eab"},
		{acmelib.Problem{Type: acmelib.ProblemTypeInvalidContact, Detail: "no", Status: 400}, ReasonRefused, "", "check the issuer's email"},
		{fmt.Errorf("x: %w", errStorage), ReasonStorage, "", "storage"},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), ReasonUnavailable, "", "deadline"},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, ReasonUnavailable, "", "refused"},
		{errors.New("presenting for challenge: no zone"), ReasonChallenge, "", "no zone"},
		{errors.New("invalid character '<'"), ReasonUnavailable, "", "invalid character"},
		{&failure{reason: ReasonChallenge, message: "own"}, ReasonChallenge, "", "own"},
	} {
		if f := classify(fmt.Errorf("wrapped: %w", c.err)); f.reason != c.reason || f.host != c.host || !strings.Contains(f.message, c.message) {
			t.Errorf("%v: %+v, want %s, %q, %q", c.err, f, c.reason, c.host, c.message)
		}
	}
}

// TestWide: what the CA says of the account or of our address holds up every
// order, what it says of names only theirs. The texts are those of Let's Encrypt.
func TestWide(t *testing.T) {
	names := []string{"a.b.example"}
	limited := func(detail string, subs ...acmelib.Subproblem) error {
		return fmt.Errorf("x: %w", acmelib.Problem{Type: acmelib.ProblemTypeRateLimited, Status: 429, Detail: detail, Subproblems: subs})
	}
	later := begun.Add(time.Hour)
	for _, c := range []struct {
		err   error
		after time.Time
		want  bool
	}{
		// The account, the address, everybody.
		{limited("too many new orders (300) from this account in the last 3h0m0s, retry after 2026-03-01 00:00:00 UTC: see https://ca.b.example/docs"), later, true},
		{limited("Error creating new order :: too many new orders recently: see https://letsencrypt.org/docs/rate-limits/"), later, true},
		{limited("too many new registrations (10) from this IP address in the last 3h0m0s, retry after 2026-03-01 00:00:00 UTC"), time.Time{}, true},
		{limited("too many new registrations (500) from this /48 subnet of IPv6 addresses in the last 3h0m0s, retry after 2026-03-01 00:00:00 UTC"), later, true},
		{limited("Error creating new account :: too many registrations for this IP: see https://letsencrypt.org/docs/too-many-registrations-for-this-ip/"), later, true},
		{limited("Service busy; retry later."), later, true},
		{limited(""), later, true},
		{limited(""), time.Time{}, false},
		{acmelib.Problem{Type: acmelib.ProblemTypeServerInternal, Status: 503}, later, true},
		{acmelib.Problem{Type: acmelib.ProblemTypeServerInternal, Status: 503}, time.Time{}, false},
		{errors.New("HTTP 429: too many requests"), later, true},
		// Names that are said.
		{limited(`too many failed authorizations (5) for "a.b.example" in the last 1h0m0s, retry after 2026-03-01 00:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/#authorization-failures-per-hostname-per-account`), later, false},
		{limited(`too many certificates (50) already issued for "b.example" in the last 168h0m0s, retry after 2026-03-01 00:00:00 UTC`), later, false},
		{limited("Error creating new order :: too many certificates already issued for: b.example: see https://letsencrypt.org/docs/rate-limits/"), later, false},
		{limited("Your account is temporarily prevented from requesting certificates for a.b.example and possibly others. Please visit: https://portal.letsencrypt.org/x"), later, false},
		{limited("too many orders", acmelib.Subproblem{Identifier: acmelib.Identifier{Value: "a.b.example"}}), later, false},
		// Names that are not said.
		{limited("too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after 2026-03-01 00:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers"), later, false},
		{limited("Error creating new order :: too many certificates (5) already issued for this exact set of domains in the last 168 hours"), later, false},
		{limited("too many orders by this account for these names"), later, false},
		{limited("Error creating new order :: too many failed authorizations recently: see https://letsencrypt.org/docs/failed-validation-limit/"), later, false},
		{limited("too many certificates already issued for registered domain"), later, false},
		{limited("see https://letsencrypt.org/docs/account-limits/"), later, false},
		{acmelib.Problem{Type: acmelib.ProblemTypeNamespace + "rejectedIdentifier", Status: 400}, later, false},
	} {
		f := classify(c.err)
		f.retryAfter = c.after
		if got := wide(f, c.err, names); got != c.want {
			t.Errorf("%v, Retry-After %v: %v", c.err, c.after, got)
		}
	}
}

func TestHearing(t *testing.T) {
	for _, c := range []struct {
		status int
		value  string
		want   time.Time
	}{
		{429, "120", begun.Add(2 * time.Minute)}, {503, "Sun, 01 Mar 2026 00:05:00 GMT", begun.Add(5 * time.Minute)},
		{200, "120", time.Time{}}, {429, "-1", time.Time{}}, {429, "soon", time.Time{}}, {429, "", time.Time{}},
	} {
		h := &hearing{}
		h.hear(c.status, http.Header{"Retry-After": {c.value}}, begun)
		if got := h.retryAfter(); !got.Equal(c.want) {
			t.Errorf("%d %q: %v, want %v", c.status, c.value, got, c.want)
		}
	}
}

// TestValidationsAreCounted: a host's failed validations are known to every
// certificate with that host, for an hour, and outlive a success.
func TestValidationsAreCounted(t *testing.T) {
	m := New(Options{Storage: newFiles(t, t.TempDir()), Tokens: NewTokens(nil), Log: zap.NewNop()})
	m.records = make(map[string]*Record)
	own := &Issuer{Name: "own"}
	for n, names := range [][]string{{"a.example", "b.example"}, {"a.example"}} {
		w := Wanted{Issuer: own, Names: names}
		r := w.record()
		for i := range 3 {
			r.Failures.add(&failure{reason: ReasonValidation, host: "a.example"}, names, begun.Add(time.Duration(10*n+i)*time.Minute))
		}
		m.records[r.ID] = r
	}
	now := begun.Add(30 * time.Minute)
	failed := m.failedValidations(now)
	if got := limited(failed, []string{"a.example", "c.example"}); !got.Equal(begun.Add(61 * time.Minute)) {
		t.Errorf("a.example may be validated again at %v", got)
	}
	if got := limited(failed, []string{"b.example"}); !got.IsZero() {
		t.Errorf("b.example failed no validation, and waits until %v", got)
	}
	if got := limited(m.failedValidations(begun.Add(80*time.Minute)), []string{"a.example"}); !got.IsZero() {
		t.Errorf("after an hour a.example waits until %v", got)
	}
}

func TestSuggestion(t *testing.T) {
	leaf := &x509.Certificate{NotBefore: begun, NotAfter: begun.Add(90 * day)}
	info := acmelib.RenewalInfo{ExplanationURL: "https://ca.example/why", SelectedTime: begun.Add(50 * day)}
	info.SuggestedWindow.Start, info.SuggestedWindow.End = begun.Add(49*day), begun.Add(51*day)
	s := suggestion(nil, info, nil, leaf, begun)
	if !s.At.Equal(begun.Add(50*day)) || !s.Next.Equal(begun.Add(askEvery)) || s.Explanation == "" {
		t.Errorf("%+v", s)
	}
	info.SelectedTime = begun.Add(49 * day)
	if again := suggestion(s, info, nil, leaf, begun.Add(day)); !again.At.Equal(s.At) {
		t.Error("another time was chosen in the same window")
	}
	if lost := suggestion(s, acmelib.RenewalInfo{}, errors.New("503"), leaf, begun.Add(day)); !lost.At.Equal(s.At) || !lost.Next.Equal(begun.Add(day+askAgain)) {
		t.Errorf("without an answer: %+v", lost)
	}
	if never := suggestion(nil, acmelib.RenewalInfo{}, acmelib.ErrUnsupported, leaf, begun); !never.At.IsZero() || !never.Next.Equal(begun.Add(4*askEvery)) {
		t.Errorf("a CA without suggestions: %+v", never)
	}
}

// TestInternalCA: certificates of a CA of one's own are valid for what was asked,
// and the CA is the same for every process.
func TestInternalCA(t *testing.T) {
	dir := t.TempDir()
	issuer := &Issuer{Name: "own", KeyType: DefaultKeyType, Suffixes: []string{"example.com"}, Lifetime: day}
	one, err1 := signing(t, dir, issuer, begun)
	two, err2 := signing(t, dir, issuer, begun.Add(day))
	if err := errors.Join(err1, err2); err != nil || !one.cert.Equal(two.cert) {
		t.Fatalf("two CAs: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(one.cert)
	for name, valid := range map[string]bool{"a.example.com": true, "a.example.org": false} {
		csr := &x509.CertificateRequest{DNSNames: []string{name}, PublicKey: one.key.Public()}
		chain, err := one.issue(csr, issuer.Lifetime, begun)
		if err != nil {
			t.Fatal(err)
		}
		leaf := (&Record{Chain: chain}).Leaf()
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: begun}); (err == nil) != valid {
			t.Errorf("%s: %v", name, err)
		}
	}
	chain, err := one.issue(&x509.CertificateRequest{DNSNames: []string{"a.example.com"}, PublicKey: one.key.Public()}, 20*caLifetime, begun)
	if leaf := (&Record{Chain: chain}).Leaf(); err != nil || !leaf.NotAfter.Equal(one.cert.NotAfter) {
		t.Errorf("a certificate ends at %v, its CA at %v, %v", leaf.NotAfter, one.cert.NotAfter, err)
	}
	other := *issuer
	other.Suffixes = []string{"example.org"}
	list, _, err := openCA(t.Context(), newFiles(t, dir), &other, begun.Add(day))
	if ca := list.signer(&other, []string{"a.example.org"}, begun.Add(day)); err != nil || ca == nil || ca.cert.Equal(one.cert) {
		t.Errorf("a CA signs what it is constrained not to, %v", err)
	}
	if ca := list.signer(&other, []string{"a.example.com", "a.example.org"}, begun.Add(day)); ca != nil {
		t.Errorf("%s signs for names that no CA may", ca.cert.Subject)
	}
}

// TestSuffixesChange: where the suffixes of an issuer change, the CA that clients
// know signs on as far as it may, until they know the next. What certificates in
// use may be of stays among what they are to trust; what cannot be goes.
func TestSuffixesChange(t *testing.T) {
	dir := t.TempDir()
	made := map[string]int{} // certificates by the order in which they were made
	for _, c := range []struct {
		day      int
		suffixes []string
		signs    int
		roots    []int
	}{
		{0, nil, 0, []int{0}},
		{1, []string{"example.com"}, 0, []int{0, 1}},
		{30, []string{"example.com"}, 0, []int{0, 1}},
		{32, []string{"example.com"}, 1, []int{1, 0}},
		{200, []string{"example.com"}, 1, []int{1, 0}},
		{212, []string{"example.com"}, 1, []int{1}},
		{213, []string{"example.com", "example.org"}, 1, []int{1, 2}}, // a third
		{214, []string{"example.com"}, 1, []int{1, 2, 3}},             // and back: nobody has had that one for long
		{250, []string{"example.com"}, 3, []int{3, 1, 2}},
	} {
		i := &Issuer{Name: "own", KeyType: DefaultKeyType, Lifetime: 30 * day, Suffixes: c.suffixes}
		now := begun.Add(time.Duration(c.day) * day)
		list, _, err := openCA(t.Context(), newFiles(t, dir), i, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, ca := range list {
			if text := string(encodeCertificate(ca.cert)); made[text] == 0 {
				made[text] = len(made) + 1
			}
		}
		ca := list.signer(i, []string{"a.example.com"}, now)
		if got := made[string(encodeCertificate(ca.cert))] - 1; got != c.signs {
			t.Errorf("day %d: CA %d signs, not %d", c.day, got, c.signs)
		}
		var roots []int
		for text := list.roots(ca, i, now); len(text) > 0; {
			block, rest := pem.Decode(text)
			roots, text = append(roots, made[string(pem.EncodeToMemory(block))]-1), rest
		}
		if !slices.Equal(roots, c.roots) {
			t.Errorf("day %d: clients are to trust %v, not %v", c.day, roots, c.roots)
		}
	}
}

// TestManyCAs: of too many, those that nothing in use is of go first, then the
// oldest.
func TestManyCAs(t *testing.T) {
	i := &Issuer{Name: "own", KeyType: DefaultKeyType, Lifetime: day, Suffixes: []string{"example.com"}}
	now := begun.Add(10 * 365 * day)
	var list cas
	for n := range maxCAs + 1 {
		at := now.Add(-time.Duration(maxCAs+1-n) * day)
		if n == 3 {
			at = now.Add(-caLifetime - day) // has ended
		}
		ca, err := newCA(i, at)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, ca)
	}
	ended := list[3]
	kept := list.trim(i, now)
	if len(kept) != maxCAs || slices.Contains(kept, ended) {
		t.Errorf("%d are kept, the one that has ended: %v", len(kept), slices.Contains(kept, ended))
	}
	if more := append(kept, ended)[:maxCAs+1]; len(more.trim(i, now)) != maxCAs {
		t.Errorf("%d are kept", len(more.trim(i, now)))
	}
	fresh, err := newCA(i, now)
	if err != nil {
		t.Fatal(err)
	}
	if again := append(slices.Clone(kept), fresh).trim(i, now); len(again) != maxCAs || again[0] != kept[1] {
		t.Error("the oldest is not the one that goes")
	}
}

// signing returns the CA that signs at a time.
func signing(t *testing.T, dir string, i *Issuer, now time.Time) (*internalCA, error) {
	list, _, err := openCA(t.Context(), newFiles(t, dir), i, now)
	return list.signer(i, nil, now), err
}

// TestNextCA: the next CA is known for half a year before it signs, and no clock
// costs the one there is.
func TestNextCA(t *testing.T) {
	dir, issuer := t.TempDir(), ownIssuer("own")
	first, err := signing(t, dir, issuer, begun)
	if err != nil {
		t.Fatal(err)
	}
	end := first.cert.NotAfter
	for _, c := range []struct {
		now   time.Time
		first bool // it signs
		roots int
	}{
		{end.Add(-caNext - day), true, 1},
		{end.Add(-caNext + day), true, 2},
		{end.Add(-caSwitch - day), true, 2},
		{end.Add(-caSwitch + day), false, 2},
		{end.Add(day), false, 1},
		{end.Add(50 * 365 * day), false, 1}, // a clock far ahead
		{begun.Add(day), true, 3},           // set right
	} {
		list, _, err := openCA(t.Context(), newFiles(t, dir), issuer, c.now)
		if err != nil {
			t.Fatal(err)
		}
		ca := list.signer(issuer, nil, c.now)
		if ca.cert.Equal(first.cert) != c.first {
			t.Errorf("%v: signed by %s", c.now, ca.cert.Subject)
		}
		if n := strings.Count(string(list.roots(ca, issuer, c.now)), "BEGIN CERTIFICATE"); n != c.roots {
			t.Errorf("%v: clients are to trust %d CAs, want %d", c.now, n, c.roots)
		}
	}
	if _, err := signing(t, dir, issuer, begun.Add(-365*day)); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("a clock before the CA: %v", err)
	}
}

// TestNextCAIsTold: whoever gets a certificate hears of the next CA, and finds it
// in what clients are to trust.
func TestNextCAIsTold(t *testing.T) {
	files, issuer := newFiles(t, t.TempDir()), ownIssuer("own")
	if _, _, err := openCA(t.Context(), files, issuer, time.Now().Add(-caLifetime+caNext-day)); err != nil {
		t.Fatal(err)
	}
	o := newOffice(t, func(o *Options) { o.Storage = files })
	o.run()
	w := want(issuer, "a.example")
	o.Want([]Wanted{w})
	o.until("the certificate", o.issued(w))
	if n := strings.Count(string(o.record(w).Roots), "BEGIN CERTIFICATE"); n != 2 || o.count(StepNewCA) != 1 {
		t.Errorf("%d roots, told %d times", n, o.count(StepNewCA))
	}
}

// refusing is a Storage that takes nothing.
type refusing struct{ *Files }

func (refusing) PutRecord(context.Context, *Record) error { return errors.New("secrets is forbidden") }

// TestStorageRefuses: nothing is asked of the CA, and what is wrong is told once.
func TestStorageRefuses(t *testing.T) {
	var mu sync.Mutex
	var steps []Step
	failures := 0
	news := make(chan struct{}, 1)
	m := New(Options{Storage: refusing{newFiles(t, t.TempDir())}, Tokens: NewTokens(nil), Log: zap.NewNop(),
		Observe: func(_ *Record, s Step) { mu.Lock(); defer mu.Unlock(); steps = append(steps, s) },
		Changed: func(r *Record) {
			mu.Lock()
			defer mu.Unlock()
			failures = r.Failures.Count
			select {
			case news <- struct{}{}:
			default:
			}
		}})
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = m.Start(ctx) })
	m.Want([]Wanted{{Owner: "shop", Issuer: &Issuer{Name: "own", KeyType: DefaultKeyType, Lifetime: day, Timeout: time.Minute}, Names: []string{"a.example"}}})
	for tried := 0; tried < 2; {
		<-news
		mu.Lock()
		tried = failures
		mu.Unlock()
	}
	stop()
	group.Wait()
	if len(steps) != 1 || !steps[0].Failed || !strings.Contains(steps[0].Message, "secrets is forbidden") {
		t.Errorf("%+v", steps)
	}
}

func TestCheck(t *testing.T) {
	issuer := &Issuer{Name: "own", KeyType: DefaultKeyType, Lifetime: day}
	ca, err := newCA(issuer, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, _ := issuer.newKey()
	key, _ := parseKey(text)
	names := []string{"*.w.example", "a.example"}
	chain, err := ca.issue(&x509.CertificateRequest{DNSNames: names, PublicKey: key.Public()}, day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"":               check(chain, key, names),
		"no certificate": check(nil, key, names),
		"another key":    check(chain, ca.key, names),
		"not for b.":     check(chain, key, append(slices.Clone(names), "b.example")),
		"not for *.v":    check(chain, key, []string{"*.v.example"}),
	} {
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, err := tls.X509KeyPair(chain, text); err != nil {
		t.Error(err)
	}
}
