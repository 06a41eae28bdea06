package certs

import (
	"fmt"
	"time"

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
	others := c.byOwner()
	for _, e := range p.entries {
		if _, twice := c.standIn[e.secret]; twice || !e.served || e.state.phase == unknown {
			continue
		}
		in := c.standInFor(e, others)
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
	c.stapler.Want(staple)
	return out
}

// standInFor is called with mu held.
func (c *Controller) standInFor(e entry, others map[string][]stored) certstore.StandIn {
	r := c.recordOf(e)
	switch {
	case r.cert != nil && newer(r.cert, e):
		return certstore.StandIn{Certificate: r.cert}
	case e.state.cert != nil:
		return certstore.StandIn{}
	}
	in := certstore.StandIn{Certificate: mostUseful(others[e.wanted.Owner], e.wanted.Names)}
	if in.Certificate == nil && e.managed() {
		in.Pending = pending(e, r)
	}
	return in
}

// byOwner returns the records with a certificate by the namespace that they are
// for. Called with mu held.
func (c *Controller) byOwner() map[string][]stored {
	out := make(map[string][]stored)
	for _, r := range c.records {
		if r.cert != nil {
			out[r.Owner] = append(out[r.Owner], r)
		}
	}
	return out
}

// mostUseful returns the certificate for most of the names, the one that ends
// last among equals, nil if none is for any: a host that is added to an entry
// takes nothing from those that were there before.
func mostUseful(list []stored, names []string) *certstore.Certificate {
	var best *certstore.Certificate
	most := 0
	for _, r := range list {
		n := 0
		for _, name := range names {
			if r.cert.Covers(name) {
				n++
			}
		}
		if n > most || n == most && n > 0 && r.cert.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best, most = r.cert, n
		}
	}
	return best
}

// newer reports whether a stored certificate is better than what the Secret of an
// entry holds: one that is handed over may be newer than ours.
func newer(stored *certstore.Certificate, e entry) bool {
	held := e.state.cert
	return held == nil || !covers(held, e.wanted.Names) || stored.Leaf.NotAfter.After(held.Leaf.NotAfter) ||
		e.state.elsewhere(e.wanted.Issuer.Name)
}

// pending says what is being done for an entry without a certificate.
func pending(e entry, r stored) string {
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
