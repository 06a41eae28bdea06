package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/portico-ingress/portico/router/diag"
)

// order is one attempt to get one certificate.
type order struct {
	m      *Manager
	client *client
	wanted Wanted
	why    string
	roots  []byte // of a CA of our own that has issued
}

// farewell is how long a process that ends, or has lost its lock, may take to
// store what became of its order. No other order comes in between unseen: a
// record that was changed meanwhile is not overwritten.
const farewell = 5 * time.Second

// tellAgain is how long after an Event another tells of the same.
const tellAgain = time.Hour

// outlive returns a context that ends some time after ctx.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-late.Done():
		}
	})
	return late, func() { stop(); cancel() }
}

// place places the order under the lock of its names. It returns an error only
// if the outcome could not be stored.
func (o *order) place(ctx context.Context) error {
	held, release, err := o.m.opts.Storage.Hold(ctx, lockName(o.wanted.Names))
	if err != nil {
		return err
	}
	defer release()
	r, err := o.m.read(held, o.wanted)
	if err != nil {
		return err
	}
	if !o.stillDue(r) {
		if r.Version != "" {
			o.m.take(r)
		} else {
			o.m.forget(r.ID)
		}
		return nil
	}
	r.Failures = o.wanted.failures(r)
	key, err := o.prepare(held, r)
	if err != nil {
		return err
	}
	o.m.opts.Log.Info("ordering a certificate", zap.Strings("names", r.Names), zap.String("issuer", r.Issuer), zap.String("why", o.why))
	o.tell(r, Step{Reason: StepOrdering, Message: fmt.Sprintf("ordering a certificate from %s: %s", r.Issuer, o.why)})
	o.m.opts.Metrics.tried(r.Issuer)
	limit, cancel := context.WithTimeout(held, o.wanted.Issuer.Timeout)
	defer cancel()
	chain, err := o.obtain(limit, r, key)
	if held.Err() != nil && err != nil {
		return o.abandon(ctx, r)
	}
	if err == nil {
		err = check(chain, key, r.Names)
	}
	if err != nil {
		f := classify(err)
		if limit.Err() != nil {
			f.message = fmt.Sprintf("not done within %v, the issuer's timeout: %s", o.wanted.Issuer.Timeout, f.message)
		}
		return o.failed(held, r, f)
	}
	return o.issued(held, r, chain)
}

// stillDue looks again: what is stored may be newer than what was decided on, and
// nobody may want it any more.
func (o *order) stillDue(r *Record) bool {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	if _, wanted := o.m.wanted[r.ID]; !wanted || o.m.draining() {
		return false
	}
	if known := o.m.records[r.ID]; known != nil && known.Version == r.Version {
		return true
	}
	now := o.m.opts.Now()
	next := Next(FactsOf(r, o.wanted, now))
	return next.Kind == PlaceOrder && !next.At.After(now)
}

// prepare stores the key that the certificate will have, and that an order is
// in flight, before the CA is asked for anything.
func (o *order) prepare(ctx context.Context, r *Record) (crypto.Signer, error) {
	key, err := parseKey(r.NextKey)
	if err != nil || !o.wanted.Issuer.fits(key) {
		if r.NextKey, err = o.wanted.Issuer.newKey(); err != nil {
			return nil, err
		}
		if key, err = parseKey(r.NextKey); err != nil {
			return nil, err
		}
	}
	r.Order = &Order{Since: o.m.opts.Now(), Holder: o.m.opts.Identity}
	return key, o.m.put(ctx, r)
}

// obtain has the certificate issued for a key.
func (o *order) obtain(ctx context.Context, r *Record, key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{}, DNSNames: r.Names,
	}, key)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	if o.wanted.Issuer.Internal() {
		return o.sign(ctx, r, csr)
	}
	replaces := r.Leaf()
	if !r.knownTo(o.wanted.Issuer) || r.Failures.Count > 0 && r.Failures.Reason == ReasonRefused {
		// Perhaps refused for this: a CA does not take it from another
		// account, nor if it has forgotten the certificate.
		replaces = nil
	}
	return o.client.obtain(ctx, csr, o.wanted.Issuer.challenge(r.Names, r.Failures.Count), replaces, first(r))
}

// sign has a CA of our own issue the certificate.
func (o *order) sign(ctx context.Context, r *Record, csr *x509.CertificateRequest) ([]byte, error) {
	now, issuer := o.m.opts.Now(), o.wanted.Issuer
	list, made, err := openCA(ctx, o.m.opts.Storage, issuer, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStorage, err)
	}
	ca := list.signer(issuer, r.Names, now)
	if ca == nil {
		return nil, &failure{reason: ReasonRefused, message: "no CA of issuer " + issuer.Name + " may sign for these names"}
	}
	o.roots = list.roots(ca, issuer, now)
	o.m.opts.Roots(issuer.Name, o.roots)
	if made {
		next := list[len(list)-1]
		message := fmt.Sprintf("%s has another CA, %s, valid until %s; %s. Clients should trust it, too: it is in ca.crt of each Secret that is written from now on",
			issuer.Name, next.cert.Subject.CommonName, next.cert.NotAfter.UTC().Format(time.RFC3339), takesOver(ca, next))
		o.m.opts.Log.Warn("an issuer has another CA", zap.String("issuer", issuer.Name), zap.String("message", message))
		o.m.opts.Observe(r, Step{Reason: StepNewCA, Message: message})
	}
	return ca.issue(csr, issuer.Lifetime, now)
}

// takesOver says when the next CA signs.
func takesOver(signer, next *internalCA) string {
	switch {
	case signer == next:
		return "it signs from now on what the last may not"
	case !signer.alike(next.cert.PermittedDNSDomains):
		return "it is constrained to the issuer's new DNS suffixes, and signs when every certificate was renewed once"
	}
	return "it signs when the last is near its end"
}

// check holds what a CA returned against what was asked for.
func check(chain []byte, key crypto.Signer, names []string) error {
	block, _ := pem.Decode(chain)
	if block == nil {
		return &failure{reason: ReasonRefused, message: "the CA returned no certificate"}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return &failure{reason: ReasonRefused, message: "the CA returned a certificate that cannot be read: " + err.Error()}
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return &failure{reason: ReasonRefused, message: "the CA returned a certificate for another key"}
	}
	for _, name := range names {
		if err := leaf.VerifyHostname(concrete(name)); err != nil {
			return &failure{reason: ReasonRefused, message: "the CA returned a certificate that is not for " + name}
		}
	}
	return nil
}

// concrete is a host that a name stands for.
func concrete(name string) string {
	if isWildcard(name) {
		return "x" + name[1:]
	}
	return name
}

// issued stores the certificate. It was paid for: as long as the lock is ours, and
// a little longer, it is tried again and again.
func (o *order) issued(ctx context.Context, r *Record, chain []byte) error {
	ctx, cancel := outlive(ctx, farewell)
	defer cancel()
	now, before := o.m.opts.Now(), FactsOf(r, o.wanted, o.m.opts.Now())
	r.Chain, r.Key, r.NextKey = bytes.TrimSpace(chain), r.NextKey, nil
	r.Chain = append(r.Chain, '\n')
	r.Directory, r.Roots, r.Order, r.Renewal = o.wanted.Issuer.Directory, o.roots, nil, nil
	r.Failures = Failures{Validations: r.Failures.recent(now)}
	r.Issued, r.Sequence = now, max(r.Sequence+1, o.wanted.Sequence+1, now.Unix())
	hasty := FactsOf(r, o.wanted, now).hasty(now)
	if r.Hasty++; !hasty && !before.wasHasty() {
		r.Hasty = 0
	}
	if err := o.keep(ctx, r); err != nil {
		return err
	}
	leaf := r.Leaf()
	o.m.opts.Log.Info("got a certificate", zap.Strings("names", r.Names), zap.String("issuer", r.Issuer), zap.String("notAfter", leaf.NotAfter.UTC().Format(time.RFC3339)))
	o.m.opts.Metrics.issued(r.Issuer)
	o.m.opts.Observe(r, Step{Reason: StepIssued, Message: fmt.Sprintf("%s issued a certificate, valid until %s%s", r.Issuer, leaf.NotAfter.UTC().Format(time.RFC3339), o.otherRoot(chain))})
	if hasty {
		o.hasty(r)
	}
	return nil
}

// otherRoot says so if the chain does not lead to the root that is preferred.
func (o *order) otherRoot(chain []byte) string {
	root := o.wanted.Issuer.PreferredRoot
	var last *x509.Certificate
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		last, _ = x509.ParseCertificate(block.Bytes)
	}
	if root == "" || last == nil || last.Issuer.CommonName == root {
		return ""
	}
	o.m.opts.Log.Warn("no chain of a certificate leads to the issuer's preferredRoot", zap.String("issuer", o.wanted.Issuer.Name),
		zap.String("preferredRoot", root), zap.String("root", last.Issuer.CommonName))
	return diag.OneLine(fmt.Sprintf("; no chain of it leads to preferredRoot %s, this one leads to %s", root, last.Issuer.CommonName), maxMessage)
}

// keep stores a record, and tries again and again while it may.
func (o *order) keep(ctx context.Context, r *Record) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := o.m.put(ctx, r)
		if err == nil || errors.Is(err, ErrConflict) || !sleep(ctx, wait) {
			return err
		}
	}
}

// hasty tells that what was issued is due already.
func (o *order) hasty(r *Record) {
	now, leaf := o.m.opts.Now(), r.Leaf()
	message := fmt.Sprintf("%s issued a certificate that is due for renewal at once: it is valid from %s to %s, and here it is %s; the next one is ordered at %s. Compare this clock with the CA's",
		r.Issuer, leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339),
		Next(FactsOf(r, o.wanted, now)).At.UTC().Format(time.RFC3339))
	o.m.opts.Log.Warn("a certificate was due as soon as it came", zap.Strings("names", r.Names), zap.String("message", message))
	o.m.opts.Observe(r, Step{Reason: StepHasty, Failed: true, Message: message})
}

func (o *order) failed(ctx context.Context, r *Record, f *failure) error {
	ctx, cancel := outlive(ctx, farewell)
	defer cancel()
	now := o.m.opts.Now()
	r.Order = nil
	if f.account == "" {
		f.account = o.wanted.Issuer.account(o.wanted.Issuer.Directory)
	}
	r.Failures.add(f, r.Names, now)
	next := Next(FactsOf(r, o.wanted, now))
	o.m.opts.Log.Warn("a certificate was not issued", zap.Strings("names", r.Names), zap.String("issuer", r.Issuer),
		zap.String("reason", string(f.reason)), zap.String("message", f.message), zap.String("next", next.At.UTC().Format(time.RFC3339)))
	o.m.opts.Metrics.failed(r.Issuer, f.reason)
	message := fmt.Sprintf("%s: %s; tried again at %s", r.Issuer, f.message, next.At.UTC().Format(time.RFC3339))
	if r.Failures.First.Before(now) {
		message += fmt.Sprintf(" (so since %s, %d attempts without a certificate)", r.Failures.First.UTC().Format(time.RFC3339), r.Failures.Count)
	}
	o.tell(r, Step{Reason: StepFailed, Failed: true, Message: message})
	if r.Failures.due(now) {
		r.Failures.Told = now
	}
	o.m.remember(r) // whether or not it can be stored, the CA is left alone as it asked
	return o.keep(ctx, r)
}

// tell tells of a step, unless the same was told within the hour: a CA that is
// down for a day makes no thousand Events. The log has them all.
func (o *order) tell(r *Record, s Step) {
	if r.Failures.due(o.m.opts.Now()) {
		o.m.opts.Observe(r, s)
	}
}

// due reports whether a failure is to be told.
func (n *Failures) due(now time.Time) bool {
	return n.Count == 0 || n.Told.IsZero() || now.Sub(n.Told).Abs() >= tellAgain
}

// abandon says that the order is not in flight any more, if the lock is still
// ours: a process that ends on purpose holds up nobody.
func (o *order) abandon(ctx context.Context, r *Record) error {
	if ctx.Err() == nil {
		return errors.New("the lock of the order was lost; its outcome is unknown")
	}
	ctx, cancel := outlive(ctx, farewell)
	defer cancel()
	r.Order = nil
	return o.m.put(ctx, r)
}

// add counts a failure. names are those of the order.
func (n *Failures) add(f *failure, names []string, now time.Time) {
	if n.Count++; n.Reason != f.reason {
		n.First, n.Told = now, time.Time{}
	}
	n.Last, n.Reason, n.Message, n.Account, n.RetryAfter, n.Wide = now, f.reason, f.message, f.account, f.retryAfter, f.wide
	n.Validations = n.recent(now)
	if f.reason != ReasonValidation {
		return
	}
	if f.host != "" {
		names = []string{f.host}
	}
	for _, name := range names {
		n.Validations[name] = append(n.Validations[name], now)
	}
}

// recent returns the failed validations of the last hour.
func (n *Failures) recent(now time.Time) map[string][]time.Time {
	out := make(map[string][]time.Time)
	for host, times := range n.Validations {
		for _, at := range times {
			if age := now.Sub(at); age >= 0 && age < time.Hour {
				out[host] = append(out[host], at)
			}
		}
	}
	return out
}

// ask asks the CA when to renew, and remembers the answer.
func (m *Manager) ask(ctx context.Context, c *client, w Wanted) {
	leaf := w.Have
	m.mu.Lock()
	known := m.records[w.ID()]
	m.mu.Unlock()
	if known != nil && known.Leaf() != nil {
		leaf = known.Leaf()
	}
	if leaf == nil {
		return
	}
	limit, cancel := context.WithTimeout(ctx, m.opts.AskTimeout)
	info, err := c.ask(limit, leaf)
	cancel()
	if ctx.Err() != nil {
		return
	}
	r, readErr := m.read(ctx, w)
	if readErr != nil {
		m.note(w.ID(), readErr)
		return
	}
	if own := r.Leaf(); own != nil && !own.Equal(leaf) {
		m.take(r)
		return
	}
	r.Renewal = suggestion(r.Renewal, info, err, leaf, m.opts.Now())
	if err := m.put(ctx, r); err != nil && ctx.Err() == nil {
		m.note(w.ID(), err)
	}
}

// suggestion is what is to be remembered of an answer. A window that is known
// keeps the time that was chosen in it. Without a usable answer what was said
// before still holds.
func suggestion(last *Suggestion, info acmelib.RenewalInfo, err error, leaf *x509.Certificate, now time.Time) *Suggestion {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	s := &Suggestion{}
	if last != nil {
		*s = *last
	}
	if err != nil {
		s.Next = now.Add(min(askAgain, max(life/20, time.Second)))
		if errors.Is(err, acmelib.ErrUnsupported) {
			s.Next = now.Add(askEvery * 4)
		}
		return s
	}
	if w := info.SuggestedWindow; !w.Start.Equal(s.Start) || !w.End.Equal(s.End) {
		s.Start, s.End, s.At = w.Start, w.End, info.SelectedTime
	}
	s.Explanation = info.ExplanationURL
	s.Next = now.Add(min(askEvery, max(life/10, time.Second)))
	if after := info.RetryAfter; after != nil {
		s.Next = latest(*after, now.Add(time.Minute))
	}
	return s
}
