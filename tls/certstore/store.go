// Package certstore selects certificates by SNI: exact host, one-label
// wildcard, default. A certificate is indexed only under hosts that an Ingress
// claims it for, never under the names it carries.
//
// The index is immutable behind an atomic pointer: a handshake takes no lock,
// and a published certificate is never written to.
package certstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portico-ingress/portico/router/diag"
)

// Reasons of the problems with certificates.
const (
	ReasonUnusable diag.Reason = "CertificateUnusable"
	ReasonMismatch diag.Reason = "CertificateNameMismatch"
	ReasonExpired  diag.Reason = "CertificateNotValidNow"
	ReasonPending  diag.Reason = "CertificatePending"
)

// SecretRef names a Secret.
type SecretRef struct{ Namespace, Name string }

// String returns "namespace/name".
func (r SecretRef) String() string { return r.Namespace + "/" + r.Name }

// Claim says which Secret a host takes its certificate from.
type Claim struct {
	Host string // canonical; "*.example.com" for a wildcard
	// Owner is the namespace that the host belongs to. No certificate of
	// another namespace is served for it.
	Owner string
	// TLS tells that spec.tls names the host. A host without it only marks
	// the owner, so that a foreign wildcard is not served for it.
	TLS bool
	// Secret is empty where spec.tls asks for the default certificate.
	Secret SecretRef
	// Object and Field are what a problem is reported on.
	Object     diag.Ref
	Generation int64
	Field      string
}

// Options configure a Store. The zero value is usable.
type Options struct {
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Store holds claims and Secrets and publishes an index of both. Safe for
// concurrent use.
type Store struct {
	now        func() time.Time
	selfSigned *Certificate // const after New
	index      atomic.Pointer[index]

	// mu protects the following.
	mu     sync.Mutex
	claims map[string]Claim
	// hostsOf lists the hosts that claim a Secret, so that a change of one
	// touches no other host.
	hostsOf map[SecretRef]map[string]struct{}
	secrets map[SecretRef]secret
	standIn map[SecretRef]StandIn
	def     SecretRef // --default-tls-secret; zero: self-signed
	changed chan struct{}
}

// secret is what is known of one Secret: a certificate, or why there is none.
type secret struct {
	cert    *Certificate
	problem string
}

// index is what handshakes read. Never written after it is stored.
type index struct {
	hosts     map[string]entry
	wildcards map[string]entry // under ".example.com"
	def       *Certificate
	defSource string
}

// sourceSelfSigned is the source of the certificate of last resort.
const sourceSelfSigned = "self-signed"

type entry struct {
	owner string
	tls   bool
	ref   SecretRef
	cert  *Certificate // nil: the default certificate is served
	why   string       // why there is no certificate
}

// New returns a Store that serves a self-signed certificate to everybody.
func New(opts Options) (*Store, error) {
	s := &Store{
		now:     opts.Now,
		claims:  map[string]Claim{},
		hostsOf: map[SecretRef]map[string]struct{}{},
		secrets: map[SecretRef]secret{},
		standIn: map[SecretRef]StandIn{},
		changed: make(chan struct{}),
	}
	if s.now == nil {
		s.now = time.Now
	}
	var err error
	if s.selfSigned, err = selfSigned(s.now()); err != nil {
		return nil, err
	}
	s.index.Store(&index{def: s.selfSigned, defSource: sourceSelfSigned})
	return s, nil
}

// SetSecret says what a Secret holds: a certificate, or in words why it is of
// no use ("tls.key does not belong to …"). New handshakes use it at once; no
// connection is touched.
func (s *Store) SetSecret(ref SecretRef, c *Certificate, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[ref] = secret{cert: c, problem: problem}
	s.publishSecret(ref)
}

// DeleteSecret says that a Secret does not exist.
func (s *Store) DeleteSecret(ref SecretRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.secrets[ref]; ok {
		delete(s.secrets, ref)
		s.publishSecret(ref)
	}
}

// StandIn is what is known of a Secret beside what it holds.
type StandIn struct {
	// Certificate is served in place of what the Secret holds; nil: none.
	Certificate *Certificate
	// Fallback is served where the Secret holds none, from the moment that it
	// is deleted on; nil: none.
	Fallback *Certificate
	// Pending says in words what is being done to get a certificate, or why
	// nothing is. It explains why there is none, none for a host, or one that
	// has ended; empty: somebody has to replace the Secret.
	Pending string
}

// SetStandIn says what stands in for a Secret; the zero value ends it.
func (s *Store) SetStandIn(ref SecretRef, in StandIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, wasWhy := s.held(ref)
	wasPending := s.standIn[ref].Pending
	if s.standIn[ref] = in; in == (StandIn{}) {
		delete(s.standIn, ref)
	}
	if is, why := s.held(ref); is != was || why != wasWhy || in.Pending != wasPending {
		s.publishSecret(ref)
	}
}

// ReplaceSecrets says what all Secrets hold, at once.
func (s *Store) ReplaceSecrets(all map[SecretRef]*Certificate, problems map[SecretRef]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = map[SecretRef]secret{}
	for ref, c := range all {
		s.secrets[ref] = secret{cert: c}
	}
	for ref, why := range problems {
		s.secrets[ref] = secret{problem: why}
	}
	s.publish(slices.Collect(maps.Keys(s.claims)))
}

// SetClaims adds or replaces claims by host and removes those of the hosts
// listed.
func (s *Store) SetClaims(set []Claim, removed []string) {
	if len(set) == 0 && len(removed) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := slices.Clone(removed)
	for _, host := range removed {
		s.unclaim(host)
	}
	for _, c := range set {
		s.unclaim(c.Host)
		s.claims[c.Host] = c
		if s.hostsOf[c.Secret] == nil {
			s.hostsOf[c.Secret] = map[string]struct{}{}
		}
		s.hostsOf[c.Secret][c.Host] = struct{}{}
		touched = append(touched, c.Host)
	}
	s.publish(touched)
}

func (s *Store) unclaim(host string) {
	ref := s.claims[host].Secret
	delete(s.claims, host)
	if delete(s.hostsOf[ref], host); len(s.hostsOf[ref]) == 0 {
		delete(s.hostsOf, ref)
	}
}

// SetDefault names the Secret of the default certificate; the zero value is
// the self-signed one, which also stands in while the Secret is of no use.
func (s *Store) SetDefault(ref SecretRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.def = ref
	s.publish(nil)
}

// Wanted returns the Secrets that claims and the default name, sorted.
func (s *Store) Wanted() []SecretRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := map[SecretRef]struct{}{s.def: {}}
	for ref := range s.hostsOf {
		set[ref] = struct{}{}
	}
	delete(set, SecretRef{})
	return slices.SortedFunc(maps.Keys(set), func(a, b SecretRef) int { return strings.Compare(a.String(), b.String()) })
}

// Changed returns a channel that is closed at the next change of the index.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// publishSecret publishes the hosts that a Secret is served for, if any.
func (s *Store) publishSecret(ref SecretRef) {
	if hosts := s.hostsOf[ref]; len(hosts) > 0 || ref == s.def {
		s.publish(slices.Collect(maps.Keys(hosts)))
	}
}

// publish stores a copy of the index in which the given hosts are settled
// anew. Called with mu held.
func (s *Store) publish(hosts []string) {
	last := s.index.Load()
	ix := &index{hosts: clone(last.hosts), wildcards: clone(last.wildcards), def: s.selfSigned, defSource: sourceSelfSigned}
	for _, host := range hosts {
		part, key := ix.hosts, host
		if suffix, ok := strings.CutPrefix(host, "*"); ok {
			part, key = ix.wildcards, suffix
		}
		if c, ok := s.claims[host]; ok {
			part[key] = s.entry(c)
		} else {
			delete(part, key)
		}
	}
	if cert, _ := s.held(s.def); s.def != (SecretRef{}) && cert != nil {
		ix.def, ix.defSource = cert, "Secret "+s.def.String()
	}
	s.index.Store(ix)
	close(s.changed)
	s.changed = make(chan struct{})
}

func clone(m map[string]entry) map[string]entry {
	if m == nil {
		return map[string]entry{}
	}
	return maps.Clone(m)
}

func (s *Store) entry(c Claim) entry {
	e := entry{owner: c.Owner, tls: c.TLS, ref: c.Secret}
	if c.TLS && c.Secret != (SecretRef{}) {
		e.cert, e.why = s.usable(c)
	}
	return e
}

// usable returns the certificate for a claim, or why there is none. The time
// is not looked at: a self-signed certificate in place of an expired one would
// only hide the reason.
func (s *Store) usable(c Claim) (*Certificate, string) {
	cert, why := s.held(c.Secret)
	if cert != nil && !cert.Covers(c.Host) {
		why = fmt.Sprintf("the certificate %s is for %s, not for %s", place(c.Secret, cert), nameList(cert), c.Host)
		if pending := s.standIn[c.Secret].Pending; pending != "" {
			why += "; " + pending
		}
		return nil, why
	}
	return cert, why
}

// place says where a certificate that is served for a Secret comes from.
func place(ref SecretRef, cert *Certificate) string {
	if cert.Source != "" {
		return "from " + cert.Source
	}
	return "in Secret " + ref.String()
}

// held returns what a Secret holds, or why it is of no use.
func (s *Store) held(ref SecretRef) (*Certificate, string) {
	sec, ok := s.secrets[ref]
	in := s.standIn[ref]
	switch {
	case in.Certificate != nil:
		return in.Certificate, ""
	case sec.cert == nil && in.Fallback != nil:
		return in.Fallback, ""
	case sec.cert == nil && in.Pending != "":
		return nil, in.Pending
	case !ok:
		return nil, fmt.Sprintf("Secret %s does not exist", ref)
	case sec.cert == nil:
		return nil, fmt.Sprintf("Secret %s: %s", ref, sec.problem)
	}
	return sec.cert, ""
}

func nameList(c *Certificate) string {
	names := c.Names()
	switch {
	case len(names) == 0:
		return "no host at all"
	case len(names) > 5:
		return strings.Join(names[:5], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// Problems returns what is wrong with the certificates that Ingresses ask for
// and with the default one, sorted.
func (s *Store) Problems() []diag.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []diag.Problem
	now := s.now()
	for _, c := range s.claims {
		if p, bad := s.problem(c, now); bad {
			out = append(out, p)
		}
	}
	if p, bad := s.defaultProblem(now); bad {
		out = append(out, p)
	}
	return diag.Sort(out)
}

// defaultProblem is on the Secret: no Ingress names it.
func (s *Store) defaultProblem(now time.Time) (diag.Problem, bool) {
	p := diag.Problem{Object: diag.Ref{Kind: "Secret", Namespace: s.def.Namespace, Name: s.def.Name}}
	if s.def == (SecretRef{}) {
		return p, false
	}
	cert, why := s.held(s.def)
	switch {
	case cert == nil:
		p.Reason = ReasonUnusable
		p.Message = "the default certificate is self-signed: " + why
		p.Remedy = createSecret(s.def)
	case cert.Validity(now) != "":
		p.Reason = ReasonExpired
		p.Message = fmt.Sprintf("the default certificate in Secret %s %s; it is served as it is", s.def, cert.Validity(now))
		p.Remedy = renewSecret
	default:
		return p, false
	}
	return p, true
}

const renewSecret = "Renew the certificate and replace the Secret"

func howItIs(host string) string { return "How it is getting on: portico cert why " + host }

func createSecret(ref SecretRef) string {
	return fmt.Sprintf("Create or mend it: kubectl create secret tls %s -n %s --cert=FILE --key=FILE", ref.Name, ref.Namespace)
}

func (s *Store) problem(c Claim, now time.Time) (diag.Problem, bool) {
	p := diag.Problem{Object: c.Object, Generation: c.Generation, Field: c.Field}
	if !c.TLS || c.Secret == (SecretRef{}) {
		return p, false
	}
	held, _ := s.held(c.Secret)
	cert, why := s.usable(c)
	pending := s.standIn[c.Secret].Pending
	switch {
	case cert == nil && pending != "":
		p.Reason = ReasonPending
		p.Message = fmt.Sprintf("host %s gets the default certificate until its own is there: %s", c.Host, why)
		p.Remedy = howItIs(c.Host)
	case cert == nil && held != nil:
		p.Reason = ReasonMismatch
		p.Message = fmt.Sprintf("host %s gets the default certificate: %s", c.Host, why)
		p.Remedy = "Put a certificate for this host into the Secret, or name another Secret"
	case cert == nil:
		p.Reason = ReasonUnusable
		p.Message = fmt.Sprintf("host %s gets the default certificate: %s", c.Host, why)
		p.Remedy = createSecret(c.Secret)
	case cert.Validity(now) != "":
		p.Reason = ReasonExpired
		p.Message = fmt.Sprintf("the certificate of host %s %s %s; it is served as it is", c.Host, place(c.Secret, cert), cert.Validity(now))
		if p.Remedy = renewSecret; pending != "" {
			p.Message, p.Remedy = p.Message+"; "+pending, howItIs(c.Host)
		}
	default:
		return p, false
	}
	return p, true
}
