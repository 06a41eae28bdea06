package certs

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
)

// TestTimePasses: that a certificate ends, begins or nears its end is noticed within
// a second, although nothing else happens.
func TestTimePasses(t *testing.T) {
	const day = 24 * time.Hour
	none := diag.Reason("")
	for name, c := range map[string]struct {
		foreign     bool
		heldTo      time.Duration // what the Secret holds
		storedFrom  time.Duration // what is stored, until in 90 days
		first, then string        // what is served
		problem     diag.Reason   // then
		changesIn   time.Duration
	}{
		"the Secret's ends":             {heldTo: 10 * time.Minute, storedFrom: -day, first: "Secret a/tls", then: "issuer dead", problem: none, changesIn: 10*time.Minute + time.Second},
		"the stored begins":             {heldTo: -time.Hour, storedFrom: 20 * time.Minute, first: "Secret a/tls", then: "issuer dead", problem: none, changesIn: 20 * time.Minute},
		"after hours":                   {heldTo: 10 * time.Hour, storedFrom: -day, first: "Secret a/tls", then: "issuer dead", problem: none, changesIn: 10*time.Hour + time.Second},
		"a foreign one is to be handed": {foreign: true, heldTo: handOver + 30*time.Minute, storedFrom: -day, first: "Secret a/tls", then: "Secret a/tls", problem: ReasonForeign, changesIn: 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newSuburb(t, issuers(t, acme.IssuerConfig{Name: "dead", Directory: "https://127.0.0.1:1/dir"}))
				begun := time.Now().Truncate(time.Second)
				held := newTLSSecret(tlsRef, recorded(t, "dead", 9, begun.Add(-80*day), begun.Add(c.heldTo), "a.example"))
				if c.foreign {
					held.Labels = nil
				}
				w.put(held)
				w.SetRecord(recorded(t, "dead", 7, begun.Add(c.storedFrom), begun.Add(90*day), "a.example"))
				w.apply(ingress(t, "a/web", time.Hour, annotated(asks, "dead"), entryFor("tls", "a.example")))
				for _, step := range []struct {
					at      time.Duration
					source  string
					problem diag.Reason
				}{{c.changesIn - 2*time.Second, c.first, none}, {c.changesIn + time.Second, c.then, c.problem}} {
					time.Sleep(time.Until(begun.Add(step.at)))
					synctest.Wait()
					if got := w.source("a.example"); got != step.source || step.problem != none && !w.has(step.problem) || step.problem == none && w.has(ReasonForeign) {
						t.Errorf("after %v: %s, %v", step.at, got, w.publisher.Problems())
					}
				}
			})
		})
	}
}
