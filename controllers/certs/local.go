package certs

import (
	"context"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Unasked is a certificate that an issuer gives without being asked for it.
type Unasked struct {
	Secret certstore.SecretRef
	Names  []string // sorted
	// Origin and Field are of the first entry that names the Secret, in the
	// oldest Ingress.
	Origin router.Origin
	Field  string
}

// UnaskedFor returns what an issuer gives to Ingresses that ask none: a certificate
// for each Secret that is missing, with all hosts that they list beside it and that
// the issuer is for. They are sorted by Secret.
func UnaskedFor(issuer *acme.Issuer, ingresses []*networkingv1.Ingress, missing func(certstore.SecretRef) bool) []*Unasked {
	bySecret := make(map[certstore.SecretRef]*Unasked)
	var out []*Unasked
	for _, ing := range byAge(ingresses) {
		translated, _ := translate.Ingress(ing) // its problems are reported elsewhere
		for _, t := range translated.TLS {
			ref := certstore.SecretRef{Namespace: ing.Namespace, Name: t.Secret}
			hosts := slices.DeleteFunc(slices.Clone(t.Hosts), func(host string) bool { return !issuer.For(host) })
			if t.Secret == "" || len(hosts) == 0 || !missing(ref) {
				continue
			}
			u := bySecret[ref]
			if u == nil {
				u = &Unasked{Secret: ref, Origin: translated.Origin, Field: t.Field}
				bySecret[ref], out = u, append(out, u)
			}
			u.Names = append(u.Names, hosts...)
			slices.Sort(u.Names)
			u.Names = slices.Compact(u.Names)
		}
	}
	slices.SortFunc(out, func(a, b *Unasked) int { return strings.Compare(a.Secret.String(), b.Secret.String()) })
	return out
}

// unasked plans what the local issuer gives to those who have not asked.
func (p *planner) unasked() {
	if p.local == nil {
		return
	}
	missing := func(ref certstore.SecretRef) bool {
		_, taken := p.taken[ref]
		return !taken && p.secrets(ref).phase == absent
	}
	for _, u := range UnaskedFor(p.local, p.rest, missing) {
		e := entry{origin: u.Origin, field: u.Field, secret: u.Secret, state: p.secrets(u.Secret), served: true,
			wanted: acme.Wanted{Owner: u.Secret.Namespace, Issuer: p.local, Names: u.Names}}
		p.taken[u.Secret] = e.wanted.ID()
		p.plan.entries = append(p.plan.entries, e)
	}
}

// givenAll reports whether the local issuer has given all that it will: what it
// failed to give is tried again, but nobody should wait for it. Called with mu held.
func (c *Controller) givenAll(p *plan) bool {
	return !slices.ContainsFunc(p.entries, func(e entry) bool {
		r := c.recordOf(e)
		return e.managed() && e.wanted.Issuer == c.opts.Local && r.cert == nil && (r.Record == nil || r.Failures.Count == 0)
	})
}

// Given reports whether what the local issuer gives is served.
func (c *Controller) Given() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.given
}

// AwaitLocal waits for the first plan, and until what the local issuer gives is
// served: it takes no longer than a key takes to make.
func (c *Controller) AwaitLocal(ctx context.Context) {
	c.AwaitPlan(ctx)
	for {
		c.mu.Lock()
		all, planned := c.given, c.planned
		c.mu.Unlock()
		if all {
			return
		}
		select {
		case <-planned:
		case <-ctx.Done():
			return
		}
	}
}
