package certs

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Reasons of the problems with certificates that are asked for.
const (
	ReasonNoIssuer     diag.Reason = "IssuerMissing"
	ReasonNotPermitted diag.Reason = "IssuerNotPermitted"
	ReasonNotOwned     diag.Reason = "HostNotOwned"
	ReasonNoTLS        diag.Reason = "CertificateWithoutTLS"
	ReasonForeign      diag.Reason = "CertificateNotManaged"
	ReasonShared       diag.Reason = "SecretShared"
	ReasonCertManager  diag.Reason = "CertManagerGoesFirst"
	ReasonNotWritten   diag.Reason = "SecretNotWritten"
)

// Labels and annotations of Secrets that hold certificates of ours.
const (
	// ManagedLabel with the value "true" makes a Secret ours to write.
	ManagedLabel = "portico.dev/managed"
	// issuedBy is an annotation of Secrets that we have written, so that the
	// label of one that is only about to be handed over is left alone.
	issuedBy = translate.IssuerAnnotation
	// issuedAs is an annotation with the sequence of the certificate that we
	// have written: what is stored may be older or newer.
	issuedAs = "portico.dev/certificate-sequence"
)

const (
	// handOver is how long before the end of a foreign certificate its owner
	// is told how to hand it over.
	handOver = 30 * 24 * time.Hour
	// maxNames is the limit of public CAs.
	maxNames = 100
)

// phase is what is known of a Secret.
type phase uint8

const (
	unknown phase = iota
	absent
	unreadable
	present
)

// secretState is what the plan needs to know of a Secret. Never written after it
// is shared.
type secretState struct {
	phase   phase
	managed bool   // it has our label
	written bool   // we have written it
	issuer  string // whose certificate we wrote
	// sequence is that of the certificate that we wrote; 0: unknown.
	sequence int64
	cert     *certstore.Certificate
	seen     uint64 // grows with all that is heard of Secrets
}

// missing reports whether there is no Secret, as far as is known.
func (s secretState) missing() bool { return s.phase == absent || s.phase == unreadable }

func (s secretState) leaf() *x509.Certificate {
	if s.cert == nil {
		return nil
	}
	return s.cert.Leaf
}

// world is what a plan is made from.
type world struct {
	issuers   *acme.Issuers
	local     *acme.Issuer            // for those who ask nobody; nil: there is none
	ingresses []*networkingv1.Ingress // that are ours
	table     *router.Table
	secrets   func(certstore.SecretRef) secretState
	folder    bool // Secrets are among manifests, where none is ours to write
	now       time.Time
}

// entry is one entry of spec.tls that asks for a certificate.
type entry struct {
	origin router.Origin
	field  string
	secret certstore.SecretRef
	wanted acme.Wanted
	state  secretState
	// refused says why nothing is done for it; empty: it is managed.
	refused string
	reason  diag.Reason // of the refusal; empty: it has none
	left    bool        // it is one of plan.left
	// foreign tells that it is refused because its Secret is somebody else's.
	foreign bool
	// served tells that what is stored for it may stand in for its Secret,
	// although no certificate is ordered any more.
	served bool
}

// managed reports whether we get its certificates.
func (e *entry) managed() bool { return e.refused == "" }

// plan says which certificates there are to be. Never written after it is made.
type plan struct {
	made     time.Time
	entries  []entry
	left     []entry               // of Ingresses that get none from us, or not any more, for Secrets that nobody asks for
	released []certstore.SecretRef // that have our label although nobody asks any more
	// idle are the entries that name a Secret and ask for nothing.
	idle     map[certstore.SecretRef][]entry
	problems []diag.Problem
}

// wanted returns what a Manager is to get.
func (p *plan) wanted() []acme.Wanted {
	var list []acme.Wanted
	for _, e := range p.entries {
		if e.managed() && e.state.phase != unknown {
			list = append(list, e.wanted)
		}
	}
	return list
}

// planner makes one plan.
type planner struct {
	world
	plan plan
	// taken has the certificate of each Secret that an older Ingress asks for.
	taken map[certstore.SecretRef]string
	rest  []*networkingv1.Ingress // that do not ask
}

// makePlan is pure: the same world gives the same plan in every replica.
func makePlan(w world) *plan {
	p := &planner{world: w, plan: plan{made: w.now, idle: make(map[certstore.SecretRef][]entry)}, taken: make(map[certstore.SecretRef]string)}
	var asking []*networkingv1.Ingress
	for _, ing := range w.ingresses {
		if translate.CertificateWish(ing.Annotations).By != "" {
			asking = append(asking, ing)
			continue
		}
		p.leave(ing, certManagers(translate.CertificateWish(ing.Annotations)))
	}
	for _, ing := range byAge(asking) {
		p.ingress(ing)
	}
	p.unasked()
	for ref := range p.plan.idle {
		if _, ok := p.taken[ref]; ok {
			continue
		}
		if s := p.secrets(ref); s.phase == present && s.managed && s.written {
			p.plan.released = append(p.plan.released, ref)
		}
	}
	asked := make(map[certstore.SecretRef]struct{}, len(p.plan.entries))
	for _, e := range p.plan.entries {
		asked[e.secret] = struct{}{}
	}
	p.plan.left = slices.DeleteFunc(p.plan.left, func(e entry) bool { _, ok := asked[e.secret]; return ok })
	slices.SortFunc(p.plan.left, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.secret.String(), b.secret.String()), strings.Compare(a.origin.Ref.Name, b.origin.Ref.Name), strings.Compare(a.field, b.field))
	})
	slices.SortFunc(p.plan.released, func(a, b certstore.SecretRef) int { return strings.Compare(a.String(), b.String()) })
	p.plan.problems = diag.Sort(p.plan.problems)
	return &p.plan
}

// byAge returns Ingresses as they rank: the oldest goes first.
func byAge(list []*networkingv1.Ingress) []*networkingv1.Ingress {
	return slices.SortedFunc(slices.Values(list), func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

func (p *planner) ingress(ing *networkingv1.Ingress) {
	wish := translate.CertificateWish(ing.Annotations)
	if wish.CertManager != "" {
		p.leave(ing, certManagers(wish))
		if wish.By == translate.IssuerAnnotation { // cert-manager knows the other one too
			p.problem(ing, "metadata.annotations", diag.Problem{Reason: ReasonCertManager,
				Message: fmt.Sprintf("it has %s and %s; cert-manager gets its certificates, and Portico leaves them alone", wish.By, wish.CertManager),
				Remedy:  "Remove the annotations of one of them"})
		}
		return
	}
	issuer, why := p.issuer(wish)
	switch {
	case why.Reason != "":
		p.problem(ing, "metadata.annotations", why)
	case issuer == nil: // tls-acme, which nobody is configured for: it does nothing
		p.leave(ing, noDefault)
		return
	}
	translated, _ := translate.Ingress(ing) // its problems are reported elsewhere
	if len(translated.TLS) == 0 {
		p.problem(ing, "spec.tls", diag.Problem{Reason: ReasonNoTLS, Message: "annotation " + wish.By + " asks for certificates, and spec.tls lists no hosts",
			Remedy: "List the hosts and a secretName in spec.tls"})
	}
	for _, t := range translated.TLS {
		p.entry(ing, translated.Origin, issuer, cmp.Or(why.Message, noDefault), t)
	}
}

// noDefault is said where the default issuer is asked, and there is none.
const noDefault = "no default issuer is configured"

// certManagers says that cert-manager is asked, if it is.
func certManagers(wish translate.Wish) string {
	if wish.CertManager == "" {
		return ""
	}
	return "cert-manager gets its certificate, as annotation " + wish.CertManager + " asks, and Portico leaves it alone"
}

// leave notes the entries of an Ingress that gets no certificates from us.
// why says who gets its, if they are asked for; empty: nobody is asked.
func (p *planner) leave(ing *networkingv1.Ingress, why string) {
	p.rest = append(p.rest, ing)
	var reason diag.Reason
	if why == noDefault {
		reason = ReasonNoIssuer
	}
	translated, _ := translate.Ingress(ing) // its problems are reported elsewhere
	for _, t := range translated.TLS {
		if t.Secret == "" {
			continue
		}
		ref := certstore.SecretRef{Namespace: ing.Namespace, Name: t.Secret}
		e := entry{origin: translated.Origin, field: t.Field, secret: ref, state: p.secrets(ref), left: true, refused: why, reason: reason,
			wanted: acme.Wanted{Owner: ing.Namespace, Names: slices.Sorted(slices.Values(t.Hosts))}}
		p.plan.idle[ref] = append(p.plan.idle[ref], e)
		p.plan.left = append(p.plan.left, e)
	}
}

// issuer returns the issuer that is asked for, nil if there is none. tls-acme
// does nothing until a default issuer is configured, so that is no problem.
func (p *planner) issuer(wish translate.Wish) (*acme.Issuer, diag.Problem) {
	issuer, ok := p.issuers.Get(wish.Issuer)
	if ok || wish.By == translate.TLSACMEAnnotation {
		return issuer, diag.Problem{}
	}
	problem := diag.Problem{Reason: ReasonNoIssuer, Message: fmt.Sprintf("there is no issuer %q", wish.Issuer),
		Remedy: "Name one of " + strings.Join(p.issuers.Names(), ", ")}
	if wish.Issuer == "" {
		problem.Message = noDefault
	}
	if len(p.issuers.Names()) == 0 {
		problem.Message, problem.Remedy = "no issuer is configured, so no certificate is ordered", "Configure issuers: see docs/certificates.md"
	}
	return nil, problem
}

func (p *planner) problem(ing *networkingv1.Ingress, field string, pr diag.Problem) {
	pr.Object, pr.Generation, pr.Field = translate.Ref(ing), ing.Generation, field
	p.plan.problems = append(p.plan.problems, pr)
}

// entry plans one entry; without is what to say where there is no issuer.
func (p *planner) entry(ing *networkingv1.Ingress, origin router.Origin, issuer *acme.Issuer, without string, t router.TLS) {
	e := entry{origin: origin, field: t.Field, secret: certstore.SecretRef{Namespace: ing.Namespace, Name: t.Secret},
		wanted: acme.Wanted{Owner: ing.Namespace, Issuer: issuer, Names: slices.Sorted(slices.Values(t.Hosts))}}
	refusal, ready := p.refusal(&e)
	switch {
	case !ready:
		return
	case refusal.Reason != "":
		p.problem(ing, t.Field, refusal)
		e.refused, e.reason = refusal.Message, refusal.Reason
	case e.managed() && issuer == nil:
		e.refused, e.reason = without, ReasonNoIssuer
	case e.managed():
		p.taken[e.secret] = e.wanted.ID()
		e.wanted.Have, e.wanted.Sequence = e.have(), e.state.sequence
	}
	p.plan.entries = append(p.plan.entries, e)
}

// have returns the certificate in the Secret, if it does until it ends: one that
// was handed over, or that the issuer itself issued.
func (e *entry) have() *x509.Certificate {
	leaf := e.state.leaf()
	if leaf == nil || !e.state.managed || e.state.elsewhere(e.wanted.Issuer.Name) || !covers(e.state.cert, e.wanted.Names) {
		return nil
	}
	return leaf
}

// elsewhere reports whether we wrote the certificate of another issuer.
func (s secretState) elsewhere(issuer string) bool { return s.written && s.issuer != issuer }

// refusal returns why an entry gets no certificate from us. It reports false
// where the table has not followed the Ingress yet.
func (p *planner) refusal(e *entry) (diag.Problem, bool) {
	if e.secret.Name == "" {
		return diag.Problem{Reason: ReasonNoTLS, Message: "it names no Secret for the certificate", Remedy: "Give it a secretName"}, true
	}
	e.state = p.secrets(e.secret)
	for _, name := range e.wanted.Names {
		h, ok := p.table.Host(name)
		if !ok {
			return diag.Problem{}, false
		}
		if owner := h.Owner.Ref.Namespace; owner != e.origin.Ref.Namespace {
			return diag.Problem{Reason: ReasonNotOwned, Message: fmt.Sprintf("no certificate is ordered: host %s belongs to namespace %s, whose Ingress %s %s", name, owner, h.Owner.Ref.Name, first(h.Owner, e.origin)),
				Remedy: "Remove the host from this entry, or from the other Ingress"}, true
		}
	}
	if problem := p.foreign(e); e.refused != "" {
		return problem, true
	}
	e.served = true
	if e.wanted.Issuer == nil {
		return diag.Problem{}, true
	}
	if other, ok := p.taken[e.secret]; ok && other != e.wanted.ID() {
		e.served = false
		return diag.Problem{Reason: ReasonShared, Message: fmt.Sprintf("Secret %s is asked for by another entry with other hosts, which comes first by age and name; it gets that one's certificate", e.secret),
			Remedy: "Name another Secret, or list the same hosts"}, true
	}
	if other, ok := p.user(e); ok {
		e.served = false
		return diag.Problem{Reason: ReasonShared, Message: fmt.Sprintf("Secret %s is named by Ingress %s for other hosts, which comes first by age and name and asks for no certificate; it is left to that one", e.secret, other.origin.Name()),
			Remedy: "Name another Secret, or list the same hosts"}, true
	}
	return p.permission(e), true
}

// user returns the entry that has an entry's Secret for other hosts, comes before it
// and asks for nothing: what it has there stays.
func (p *planner) user(e *entry) (entry, bool) {
	for _, other := range p.plan.idle[e.secret] {
		if other.origin.Compare(e.origin) < 0 && !within(other.wanted.Names, e.wanted.Names) {
			return other, true
		}
	}
	return entry{}, false
}

// first says why a host belongs to one and not to the other.
func first(owner, other router.Origin) string {
	if owner.Created == other.Created {
		return "is as old and comes first by name"
	}
	return "is older"
}

// permission returns why the issuer may not be used for an entry.
func (p *planner) permission(e *entry) diag.Problem {
	if n := len(e.wanted.Names); n > maxNames {
		return diag.Problem{Reason: ReasonNotPermitted, Message: fmt.Sprintf("it lists %d hosts; a certificate has at most %d", n, maxNames),
			Remedy: "Divide it into several entries"}
	}
	if err := e.wanted.Issuer.Permit(e.origin.Ref.Namespace, e.wanted.Names); err != nil {
		return diag.Problem{Reason: ReasonNotPermitted, Message: "no certificate is ordered: " + err.Error(), Remedy: "Ask whoever configures the issuers, or use another"}
	}
	return diag.Problem{}
}

// foreign looks at a Secret that we did not make: it is served as it stands.
func (p *planner) foreign(e *entry) diag.Problem {
	if e.state.phase != present || e.state.managed {
		return diag.Problem{}
	}
	e.foreign = true
	remedy := fmt.Sprintf("To hand it over: kubectl label secret %s -n %s %s=true", e.secret.Name, e.secret.Namespace, ManagedLabel)
	if e.refused = fmt.Sprintf("Secret %s is not labelled %s=true, so it is served as it stands and never written", e.secret, ManagedLabel); p.folder {
		e.refused = fmt.Sprintf("Secret %s is among the manifests, which are never written, and is served as it stands", e.secret)
		remedy = "Renew the certificate in the manifest, or remove the Secret from the manifests: then one is ordered"
	}
	leaf := e.state.leaf()
	if leaf == nil || p.now.Before(leaf.NotAfter.Add(-handOver)) {
		return diag.Problem{}
	}
	return diag.Problem{Reason: ReasonForeign,
		Message: fmt.Sprintf("%s; its certificate ends at %s, and Portico does not renew it", e.refused, leaf.NotAfter.UTC().Format(time.RFC3339)),
		Remedy:  remedy}
}

func covers(c *certstore.Certificate, names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !c.Covers(n) })
}

// byRecord returns the managed entries of each record.
func (p *plan) byRecord() map[string][]entry {
	out := make(map[string][]entry)
	for _, e := range p.entries {
		if e.managed() {
			id := e.wanted.ID()
			out[id] = append(out[id], e)
		}
	}
	return out
}

// refs returns the Secrets of all managed entries.
func (p *plan) refs() map[certstore.SecretRef]struct{} {
	out := make(map[certstore.SecretRef]struct{})
	for _, e := range p.entries {
		if e.managed() {
			out[e.secret] = struct{}{}
		}
	}
	return out
}
