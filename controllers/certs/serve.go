package certs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// standIns returns what the certificate store is to be told: for every entry
// the best certificate that is stored, unless its Secret holds it already; and
// that nothing stands in any more where we had set something. Called with mu
// held.
func (c *Controller) standIns(p *plan) map[certstore.SecretRef]certstore.StandIn {
	out := make(map[certstore.SecretRef]certstore.StandIn)
	for ref := range c.standIn {
		out[ref] = certstore.StandIn{}
	}
	clear(c.standIn)
	var staple []*certstore.Certificate
	others, now := sync.OnceValue(c.byName), c.opts.Now()
	for _, e := range p.entries {
		if _, twice := c.standIn[e.secret]; twice || !e.served || e.state.phase == unknown {
			continue
		}
		in := c.standInFor(e, others, now)
		served := in.Certificate
		if served == nil {
			served = e.state.cert
		}
		// Whoever writes a Secret could name any responder in its certificate.
		if issued := c.recordOf(e).cert; served != nil && issued != nil && issued.Leaf.Equal(served.Leaf) {
			staple = append(staple, served)
			if stapled := c.stapler.Stapled(served); stapled != nil {
				in.Certificate = stapled
			}
		}
		if in != (certstore.StandIn{}) {
			out[e.secret] = in
			c.standIn[e.secret] = struct{}{}
		}
	}
	for _, e := range slices.Concat(p.entries, p.left) {
		if _, twice := c.standIn[e.secret]; twice || e.served || !e.state.missing() {
			continue
		}
		in := certstore.StandIn{Pending: e.refused}
		if e.left {
			in.Fallback = c.remains(e, others, now)
		}
		if in != (certstore.StandIn{}) {
			out[e.secret] = in
			c.standIn[e.secret] = struct{}{}
		}
	}
	c.stapler.Want(staple)
	return out
}

// remains returns the certificate that goes on being served for an entry that asks
// for none any more: a Secret that never was written cannot stay. Nil if there is a
// Secret, or if none that is stored is valid. Called with mu held.
func (c *Controller) remains(e entry, others func() nameIndex, now time.Time) *certstore.Certificate {
	if !e.state.missing() {
		return nil
	}
	var its []stored // and not, for example, a wildcard that another entry has
	for _, r := range others().covering(e.wanted.Owner, e.wanted.Names) {
		if within(r.Names, e.wanted.Names) || within(e.wanted.Names, r.Names) {
			its = append(its, r)
		}
	}
	cert := mostUseful(its, e.wanted.Names, now)
	if cert == nil || cert.Validity(now) != "" {
		return nil
	}
	return cert
}

// within reports whether all names are in a list.
func within(names, list []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(list, name) })
}

// leftProblems tells the owners of what goes on being served that it is not
// renewed. Called with mu held.
func (c *Controller) leftProblems(p *plan) []diag.Problem {
	var out []diag.Problem
	others, now := sync.OnceValue(c.byName), c.opts.Now()
	for _, e := range p.left {
		if cert := c.remains(e, others, now); cert != nil {
			out = append(out, diag.Problem{Object: e.origin.Ref, Generation: e.origin.Generation, Field: e.field, Reason: ReasonForeign,
				Message: remaining(e, cert), Remedy: fmt.Sprintf("Have Secret %s made, or ask with annotation %s again", e.secret, translate.IssuerAnnotation)})
		}
	}
	return out
}

func remaining(e entry, cert *certstore.Certificate) string {
	return fmt.Sprintf("Portico is not asked for its certificate any more; while there is no Secret %s, what %s has issued is served until %s and not renewed",
		e.secret, cert.Source, cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
}

// standInFor is called with mu held; others has what is stored.
func (c *Controller) standInFor(e entry, others func() nameIndex, now time.Time) certstore.StandIn {
	r, in := c.recordOf(e), certstore.StandIn{}
	switch {
	case r.cert != nil && better(r, e, now):
		in.Certificate = r.cert
	case e.state.cert != nil:
		in.Fallback = r.cert // nil, unless it is stored
	default:
		in.Certificate = mostUseful(others().covering(e.wanted.Owner, e.wanted.Names), e.wanted.Names, now)
	}
	served := cmp.Or(in.Certificate, e.state.cert)
	fails := r.Record != nil && r.Failures.Count > 0 // it may end before the next plan is made
	if fails || served == nil || served.Validity(now) != "" || !covers(served, e.wanted.Names) {
		in.Pending = pending(e, r)
	}
	return in
}

// nameIndex has the records with a certificate by the namespace that they are for
// and each name in the certificate: there may be thousands in a namespace.
type nameIndex map[ownedName][]stored

type ownedName struct{ owner, name string }

// byName is called with mu held.
func (c *Controller) byName() nameIndex {
	x := make(nameIndex)
	for _, r := range c.records {
		if r.cert == nil {
			continue
		}
		for _, name := range r.cert.Names() {
			key := ownedName{r.Owner, strings.TrimSuffix(strings.ToLower(name), ".")}
			x[key] = append(x[key], r)
		}
	}
	return x
}

// covering returns the records of an owner whose certificates are for one of the
// names, in an order that is the same in every replica.
func (x nameIndex) covering(owner string, names []string) []stored {
	var list []stored
	for _, name := range names {
		list = append(list, x[ownedName{owner, name}]...)
		if _, parent, ok := strings.Cut(name, "."); ok {
			list = append(list, x[ownedName{owner, "*." + parent}]...)
		}
	}
	slices.SortFunc(list, func(a, b stored) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(list, func(a, b stored) bool { return a.ID == b.ID })
}

// mostUseful returns the certificate for most of the names, nil if none is for
// any: a host that is added to an entry takes nothing from those that were there
// before. One that is valid goes before one that is not, and the latest before
// others.
func mostUseful(list []stored, names []string, now time.Time) *certstore.Certificate {
	var best stored
	most, valid := 0, false
	for _, r := range list {
		n, ok := 0, r.cert.Validity(now) == ""
		for _, name := range names {
			if r.cert.Covers(name) {
				n++
			}
		}
		switch {
		case n == 0 || most > 0 && valid && !ok:
		case most == 0 || ok && !valid || n > most, n == most && follows(r.pair.Sequence, r.cert, best.pair.Sequence, best.cert):
			best, most, valid = r, n, ok
		}
	}
	return best.cert
}

// better reports whether a stored certificate is better than what the Secret of an
// entry holds: one that is handed over may be newer than ours. What has ended never
// takes the place of what is valid. Neither does, where the entry has gone back to
// an issuer that it had before, what is due: the next one from there will.
func better(r stored, e entry, now time.Time) bool {
	held := e.state.cert
	switch {
	case held == nil || !covers(held, e.wanted.Names):
		return true
	case held.Leaf.Equal(r.cert.Leaf):
		return false
	case (held.Validity(now) == "") != (r.cert.Validity(now) == ""):
		return r.cert.Validity(now) == ""
	case e.state.elsewhere(e.wanted.Issuer.Name) && e.state.sequence != 0 && r.pair.Sequence > e.state.sequence:
		return true // also when it is due: what its issuer was left for does not come back
	case e.state.elsewhere(e.wanted.Issuer.Name):
		latest := r.pair
		if r.Sequence == r.pair.Sequence {
			latest = r.Record // which may know what the CA suggests
		}
		return !acme.FactsOf(latest, e.wanted, now).Due()
	}
	return follows(r.pair.Sequence, r.cert, e.state.sequence, held)
}

// follows reports whether one certificate came after another: by their sequence
// where both are known to be ours, else by when they became valid. Until when they
// are is no sign: a CA may make them for less time than before.
func follows(sequence int64, cert *certstore.Certificate, lastSequence int64, last *certstore.Certificate) bool {
	if sequence != lastSequence && sequence != 0 && lastSequence != 0 {
		return sequence > lastSequence
	}
	if !cert.Leaf.NotBefore.Equal(last.Leaf.NotBefore) {
		return cert.Leaf.NotBefore.After(last.Leaf.NotBefore)
	}
	return cert.Leaf.NotAfter.After(last.Leaf.NotAfter)
}

// pending says what is being done for an entry without a certificate, or why
// nothing is; empty: somebody else has to.
func pending(e entry, r stored) string {
	switch {
	case e.foreign:
		return ""
	case !e.managed():
		return e.refused
	}
	issuer := e.wanted.Issuer.Name
	switch {
	case r.Record == nil:
		return fmt.Sprintf("issuer %s is about to be asked for its certificate", issuer)
	case r.Failures.Count > 0:
		return fmt.Sprintf("issuer %s did not issue it: %s", issuer, r.Failures.Message)
	case r.Order != nil:
		return fmt.Sprintf("it is ordered from issuer %s since %s", issuer, r.Order.Since.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("issuer %s is about to be asked for its certificate", issuer)
}
