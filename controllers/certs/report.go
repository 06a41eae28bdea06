package certs

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Managed is one entry of spec.tls that asks for a certificate, for people. It
// holds nothing secret.
type Managed struct {
	Ingress string // namespace/name
	Field   string
	Secret  certstore.SecretRef
	Names   []string
	Issuer  string // empty: none that is configured
	// Refused says why no certificate is ordered; empty: it is managed.
	Refused string
	// Reason is the kind of refusal, as problems have it; empty: it has none.
	Reason diag.Reason
	// NotManaged tells that it is refused because somebody else sees to the
	// certificate: what there is is served.
	NotManaged bool
	// Serial and NotAfter are those of the certificate that is stored for it,
	// or that its Secret holds; zero: there is none.
	Serial   string
	NotAfter time.Time
	// Ordered is since when an order is in flight; zero: none is.
	Ordered time.Time
	// Next is when something is done for it, and NextWhy what; zero where it
	// is refused.
	Next    time.Time
	NextWhy string
	// Renewal is when the certificate is to be renewed, and RenewalWhy why
	// then, whatever is done before; zero: there is none to be.
	Renewal    time.Time
	RenewalWhy string
	// Failures, LastError and LastErrorAt tell of the attempts since the last
	// success.
	Failures    int
	LastError   string
	LastErrorAt time.Time
	// Unwritten says why the Secret could not be written; only the elected
	// replica knows it.
	Unwritten string
}

// Managed returns every entry that asks for a certificate, by Ingress.
func (c *Controller) Managed() []Managed {
	now := c.opts.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	held := new(acme.Holds)
	for _, r := range c.records {
		held.Add(r.Record, now, now)
	}
	out := make([]Managed, 0, len(c.plan.entries))
	for _, e := range c.plan.entries {
		out = append(out, c.describe(e, held, now))
	}
	others := sync.OnceValue(c.byName)
	for _, e := range c.plan.left {
		m := Managed{Ingress: e.origin.Name(), Field: e.field, Secret: e.secret, Names: e.wanted.Names, Refused: e.refused, Reason: e.reason, NotManaged: true}
		leaf := e.state.leaf()
		if cert := c.remains(e, others, now); cert != nil {
			m.Refused, m.Reason, m.NotManaged, leaf = remaining(e, cert), "", true, cert.Leaf
		}
		if leaf != nil {
			m.Serial, m.NotAfter = leaf.SerialNumber.Text(16), leaf.NotAfter
		}
		if m.Refused != "" {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b Managed) int { return strings.Compare(a.Ingress, b.Ingress) })
	return out
}

// describe is called with mu held; held says which directories are left alone.
func (c *Controller) describe(e entry, held *acme.Holds, now time.Time) Managed {
	m := Managed{Ingress: e.origin.Name(), Field: e.field, Secret: e.secret,
		Names: e.wanted.Names, Refused: e.refused, Reason: e.reason, NotManaged: e.foreign, Unwritten: c.unsaved[e.secret]}
	if e.wanted.Issuer != nil {
		m.Issuer = e.wanted.Issuer.Name
	}
	r := c.recordOf(e)
	leaf := e.state.leaf()
	if r.cert != nil && better(r, e, now) {
		leaf = r.cert.Leaf
	}
	if leaf != nil {
		m.Serial, m.NotAfter = leaf.SerialNumber.Text(16), leaf.NotAfter
	}
	if r.Record != nil {
		m.Failures, m.LastError, m.LastErrorAt = r.Failures.Count, r.Failures.Message, r.Failures.Last
		if r.Order != nil {
			m.Ordered = r.Order.Since
		}
	}
	if e.managed() {
		facts := acme.FactsOf(r.Record, e.wanted, now)
		facts.Held = held.Until(e.wanted, r.Record)
		m.Renewal, m.RenewalWhy = facts.RenewalDue()
		next := acme.Next(facts)
		m.Next, m.NextWhy = next.At, next.Why
	}
	return m
}
