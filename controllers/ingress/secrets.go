package ingress

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/certstore"
)

// maxNamed bounds how many Secrets are watched one by one. Only Secrets that
// an Ingress names and that do not exist, have another type, or lie in a
// namespace whose Secrets we may not list need such a watch.
const maxNamed = 1000

// secrets keeps the certificate store in step with Secrets. Secrets are never
// all watched: each scope (a watched namespace, or the cluster) has one feed of
// type kubernetes.io/tls, and a Secret that an Ingress names and that did not
// come this way has a feed of its own, by name. What is kept of a Secret is its
// resourceVersion; the store has the parsed certificate, nobody has the bytes.
//
// A Secret that an Ingress names for its backends has a feed by name in any
// case, which fills the registry: of most certificates, nobody wants the CA.
type secrets struct {
	// const after newSecrets
	core  corev1client.CoreV1Interface
	certs *certstore.Store
	pools *upstream.Registry
	told  SecretObserver
	// fallback is the default certificate's; zero for none.
	fallback certstore.SecretRef
	listed   bool // Secrets outside of the scopes are not read by name either, except fallback
	log      logr.Logger
	first    *rate.Limiter // first requests of feeds by name
	again    *rate.Limiter // requests after a refusal, of all feeds together

	mu        sync.Mutex       // protects the following and every feed
	scopes    map[string]*feed // by namespace; "" for the cluster
	named     map[wish]*feed
	wanted    map[wish]int
	byIngress map[router.Key][]wish
	// backends says why a Secret for backends is of no use; it has an entry
	// for each that has been delivered or refused.
	backends  map[upstream.SecretRef]string
	onBackend func(router.Key) // news of a Secret that the Ingress names for its backends
	crowded   bool             // a wanted Secret is not watched for want of room
	start     func(f *feed)    // nil unless running
	changed   chan struct{}    // closed and replaced when a feed's phase changes
}

// A wish is a Secret and what it is wanted for.
type wish struct {
	certstore.SecretRef
	backend bool // for backends; else for listeners
}

// A feed is one list and watch of Secrets and what it has delivered.
type feed struct {
	namespace string // const; "" for the cluster
	name      string // const; "" for all of type kubernetes.io/tls
	backend   bool   // const; as in wish

	stop    context.CancelFunc
	stopped bool
	phase   phase
	refusal string // the apiserver's words, with phase refused
	have    map[certstore.SecretRef]string
}

type phase uint8

const (
	waiting phase = iota
	delivered
	refused
)

func newSecrets(core corev1client.CoreV1Interface, opts Options) *secrets {
	s := &secrets{
		core:     core,
		certs:    opts.Certs,
		pools:    opts.Registry,
		told:     opts.Secrets,
		fallback: opts.DefaultTLSSecret,
		listed:   opts.SecretNamespaces != nil,
		log:      opts.Log,
		first:    rate.NewLimiter(50, 50),
		// An attempt is at most three requests (streaming list, list,
		// watch): together they stay under one a second.
		again:     rate.NewLimiter(rate.Every(4*time.Second), 1),
		scopes:    make(map[string]*feed),
		named:     make(map[wish]*feed),
		wanted:    make(map[wish]int),
		byIngress: make(map[router.Key][]wish),
		backends:  make(map[upstream.SecretRef]string),
		onBackend: func(router.Key) {},
		changed:   make(chan struct{}),
	}
	if s.told == nil {
		s.told = nobody{}
	}
	s.again.Allow() // the first attempt after the first refusal waits too
	for _, ns := range opts.secretNamespaces() {
		s.scopes[ns] = newFeed(ns, "")
	}
	if s.fallback != (certstore.SecretRef{}) {
		s.wanted[wish{SecretRef: s.fallback}]++
	}
	return s
}

// secretNamespaces are the scopes: one feed each.
func (o *Options) secretNamespaces() []string {
	switch {
	case o.SecretNamespaces != nil:
		return o.SecretNamespaces
	case len(o.Namespaces) > 0:
		return o.Namespaces
	}
	return []string{corev1.NamespaceAll}
}

func newFeed(namespace, name string) *feed {
	return &feed{namespace: namespace, name: name, have: make(map[certstore.SecretRef]string)}
}

// run follows all feeds until ctx ends.
func (s *secrets) run(ctx context.Context) {
	var feeds sync.WaitGroup
	s.mu.Lock()
	s.start = func(f *feed) {
		feedCtx, stop := context.WithCancel(ctx)
		f.stop = stop
		feeds.Go(func() { s.follow(feedCtx, f) })
	}
	for _, f := range s.scopes {
		s.start(f)
	}
	for ref := range s.wanted {
		s.need(ref)
	}
	s.mu.Unlock()

	<-ctx.Done()
	s.mu.Lock()
	s.start = nil
	s.mu.Unlock()
	feeds.Wait()
}

// want replaces the Secrets that an Ingress names.
func (s *secrets) want(ing router.Key, refs []wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range refs {
		s.wanted[ref]++
	}
	for _, ref := range s.byIngress[ing] {
		if s.wanted[ref]--; s.wanted[ref] == 0 {
			delete(s.wanted, ref)
			if s.stopNamed(ref) || s.unread(ref) {
				s.forget(ref)
			}
		}
	}
	if len(refs) == 0 {
		delete(s.byIngress, ing)
		return
	}
	s.byIngress[ing] = refs
	for _, ref := range refs {
		s.need(ref)
	}
}

// need starts a feed by name for a Secret that is wanted and that its scope
// has answered without. Called with mu held.
func (s *secrets) need(ref wish) {
	if s.start == nil || s.wanted[ref] == 0 || s.named[ref] != nil {
		return
	}
	if s.unread(ref) {
		s.useless(ref, fmt.Sprintf("no Secrets of namespace %s are read; --secret-namespaces (secrets.namespaces of the chart) lists those where they are", ref.Namespace))
		return
	}
	if scope := s.scopeOf(ref.Namespace); scope != nil && !ref.backend {
		if _, ok := scope.have[ref.SecretRef]; ok || scope.phase == waiting {
			return
		}
	}
	if len(s.named) >= maxNamed {
		if !s.crowded {
			s.crowded = true
			s.log.Info("too many Secrets are named by Ingresses and missing; the rest is not looked for by name", "watched", maxNamed)
		}
		s.useless(ref, fmt.Sprintf("it is not of type %s, or for backends, or does not exist (and %d other such Secrets are watched already)",
			corev1.SecretTypeTLS, maxNamed))
		return
	}
	f := newFeed(ref.Namespace, ref.Name)
	f.backend = ref.backend
	s.named[ref] = f
	s.start(f)
}

// stopNamed ends the feed by name of a Secret, if there is one, and gives its
// room to another. Called with mu held.
func (s *secrets) stopNamed(ref wish) bool {
	f := s.named[ref]
	if f == nil {
		return false
	}
	f.stopped = true
	f.stop()
	delete(s.named, ref)
	s.notify()
	if s.crowded {
		s.crowded = false
		for other := range s.wanted {
			s.need(other)
		}
	}
	return true
}

// scopeOf returns the feed that delivers the TLS Secrets of a namespace, nil
// if it is not watched. Called with mu held.
func (s *secrets) scopeOf(namespace string) *feed {
	if f := s.scopes[corev1.NamespaceAll]; f != nil {
		return f
	}
	return s.scopes[namespace]
}

// unread reports whether a Secret is not to be read at all. Called with mu held.
func (s *secrets) unread(ref wish) bool {
	return s.listed && ref.SecretRef != s.fallback && s.scopeOf(ref.Namespace) == nil
}

// covers reports whether f is the feed of the scope that ref lies in.
func (f *feed) covers(ref wish) bool {
	return f.name == "" && !ref.backend && (f.namespace == corev1.NamespaceAll || f.namespace == ref.Namespace)
}

// put takes one Secret that f delivers.
func (s *secrets) put(f *feed, secret *corev1.Secret) {
	ref := certstore.SecretRef{Namespace: secret.Namespace, Name: secret.Name}
	s.mu.Lock()
	known := f.stopped || f.have[ref] == secret.ResourceVersion
	s.mu.Unlock()
	if known {
		return
	}
	use := s.parse(f, secret) // takes its time: without the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.stopped {
		return
	}
	f.have[ref] = secret.ResourceVersion
	use()
	if f.name == "" {
		s.stopNamed(wish{SecretRef: ref})
	}
}

// remove takes the news that a Secret of f is gone.
func (s *secrets) remove(f *feed, ref certstore.SecretRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(f, ref)
}

func (s *secrets) removeLocked(f *feed, ref certstore.SecretRef) {
	if _, ok := f.have[ref]; !ok || f.stopped {
		return
	}
	delete(f.have, ref)
	w := wish{ref, f.backend}
	if f.name != "" {
		s.missing(w)
		return
	}
	s.forget(w)
	s.need(w)
}

// complete takes the news that f has delivered all there is: exactly those in
// present.
func (s *secrets) complete(f *feed, present map[certstore.SecretRef]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.stopped {
		return
	}
	for ref := range maps.Clone(f.have) {
		if _, ok := present[ref]; !ok {
			s.removeLocked(f, ref)
		}
	}
	if f.phase == refused {
		s.log.Info("Secrets can be read again", "namespace", f.namespace, "name", f.name)
	}
	f.phase, f.refusal = delivered, ""
	if f.name != "" && len(present) == 0 {
		// Whatever was said of it while it could not be read.
		s.missing(wish{certstore.SecretRef{Namespace: f.namespace, Name: f.name}, f.backend})
	}
	s.needAll(f)
	s.notify()
}

// refuse takes the news that the apiserver does not let us follow f. What was
// delivered before stays: losing a permission cuts no certificate.
func (s *secrets) refuse(f *feed, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.stopped {
		return
	}
	if f.phase != refused && f.name == "" {
		s.log.Info("Secrets of type kubernetes.io/tls cannot be listed; hosts whose certificates cannot be read one by one either get the default certificate",
			"namespace", f.namespace, "reason", why.Error())
	}
	f.phase, f.refusal = refused, why.Error()
	ref := certstore.SecretRef{Namespace: f.namespace, Name: f.name}
	if _, ok := f.have[ref]; !ok && f.name != "" {
		s.useless(wish{ref, f.backend}, fmt.Sprintf("it cannot be read (%s); allow list and watch of Secrets in namespace %s to Portico's service account", why, f.namespace))
	}
	s.needAll(f)
	s.notify()
}

// needAll looks at every wanted Secret of a scope that has answered.
func (s *secrets) needAll(f *feed) {
	for ref := range s.wanted {
		if f.covers(ref) {
			s.need(ref)
		}
	}
}

func (s *secrets) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// settled waits until every feed has delivered or was refused. It reports
// false if ctx ends first.
func (s *secrets) settled(ctx context.Context) bool {
	for {
		s.mu.Lock()
		open, changed := s.open(), s.changed
		s.mu.Unlock()
		if open == 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// open counts the feeds that have not answered. Called with mu held.
func (s *secrets) open() int {
	n := 0
	for _, f := range s.scopes {
		if f.phase == waiting {
			n++
		}
	}
	for _, f := range s.named {
		if f.phase == waiting {
			n++
		}
	}
	return n
}
