package certs

import (
	"fmt"
	"time"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// The reasons of the steps by which a Secret changes hands.
const (
	stepAdopted  = "SecretHandedOver"
	stepReleased = "SecretReleased"
)

// news is what the owners of Ingresses are told when a Secret was written, and when
// that has failed.
type news struct {
	to           []diag.Ref
	done, failed acme.Step
}

// adoption tells that a Secret was handed over to us.
func adoption(e entry, now time.Time) news {
	renewal, _ := acme.FactsOf(nil, e.wanted, now).RenewalDue()
	message := fmt.Sprintf("Secret %s was handed over by its label %s", e.secret, ManagedLabel)
	if !renewal.IsZero() {
		message += ": its certificate is served until the next one comes, at " + renewal.UTC().Format(time.RFC3339)
	}
	return news{to: []diag.Ref{e.origin.Ref}, done: acme.Step{Reason: stepAdopted, Message: message}}
}

// release tells that a Secret is not ours any more. Called with mu held.
func (c *Controller) release(ref certstore.SecretRef) news {
	n := news{
		done: acme.Step{Reason: stepReleased, Message: fmt.Sprintf("Secret %s stays as it is, without our label %s: Portico is not asked to renew it any more", ref, ManagedLabel)},
		failed: acme.Step{Reason: stepReleased, Failed: true, Message: fmt.Sprintf(
			"Portico is not asked to renew Secret %s any more, and may not take its label away: %s", ref, unlabel(ref))},
	}
	for _, e := range c.plan.idle[ref] {
		n.to = append(n.to, e.origin.Ref)
	}
	return n
}

// unlabel is the command that takes our label away.
func unlabel(ref certstore.SecretRef) string {
	return fmt.Sprintf("kubectl label secret %s -n %s %s-", ref.Name, ref.Namespace, ManagedLabel)
}

// keepsLabel reports the Secrets whose label nobody takes away, since none is
// written. Called with mu held.
func (c *Controller) keepsLabel(p *plan) []diag.Problem {
	if c.opts.Secrets != nil || c.opts.Unwritten == "" {
		return nil
	}
	var out []diag.Problem
	for _, ref := range p.released {
		for _, e := range p.idle[ref] {
			out = append(out, diag.Problem{Object: e.origin.Ref, Generation: e.origin.Generation, Field: e.field, Reason: ReasonNotWritten,
				Message: fmt.Sprintf("Secret %s keeps the label %s, although Portico is not asked to renew it any more: %s", ref, ManagedLabel, c.opts.Unwritten),
				Remedy:  unlabel(ref)})
		}
	}
	return out
}
