// Package ingress follows Ingress, IngressClass, Service, EndpointSlice and
// Secret objects at an apiserver, translates them, and hands the results to
// the publisher, the upstream registry and the certificate store. Every
// replica does this; nothing here writes to the apiserver.
package ingress

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Options say what a Controller follows and whom it feeds. Fixed after New.
type Options struct {
	// Translate is how objects are read; its ControllerNames decide which
	// Ingresses are ours.
	Translate translate.Options
	// Namespaces restricts everything to these; empty means all. The same
	// list goes to CacheOptions.
	Namespaces []string
	// SecretNamespaces are where Secrets are read; nil means Namespaces, an
	// empty list nowhere. DefaultTLSSecret need not be there.
	SecretNamespaces []string
	// Watches are those that went to CacheOptions; nil: readiness does not
	// say why a list is not delivered.
	Watches *Watches
	// Apiserver wraps the manager's transport; nil: readiness does not say
	// whether the apiserver answers.
	Apiserver *Apiserver
	// DefaultTLSSecret is watched although no Ingress names it; zero for
	// none. Its namespace need not be among Namespaces.
	DefaultTLSSecret certstore.SecretRef
	// DefaultBackend is the pool of --default-backend-service, kept up to
	// date although no Ingress leads there; nil for none.
	DefaultBackend *router.Backend

	Publisher *publish.Publisher
	Registry  *upstream.Registry
	Certs     *certstore.Store
	// Await returns when everything else that the first table needs is
	// there; nil: nothing else.
	Await func(context.Context)
	// Secrets is told what is known of Secrets; nil: nobody.
	Secrets SecretObserver
	Log     logr.Logger
}

// SecretObserver learns of Secrets what the certificate store does not keep. It
// must not block, and must not write to what it is given.
type SecretObserver interface {
	// SecretDelivered tells of a Secret as it is now; cert is nil if it
	// holds none.
	SecretDelivered(s *corev1.Secret, cert *certstore.Certificate)
	// SecretAbsent tells of a Secret that an Ingress names: it does not
	// exist or, if it is not readable, cannot be looked for.
	SecretAbsent(ref certstore.SecretRef, readable bool)
	// SecretForgotten tells that nothing is known of a Secret any more.
	SecretForgotten(ref certstore.SecretRef)
}

// nobody observes nothing.
type nobody struct{}

func (nobody) SecretDelivered(*corev1.Secret, *certstore.Certificate) {}
func (nobody) SecretAbsent(certstore.SecretRef, bool)                 {}
func (nobody) SecretForgotten(certstore.SecretRef)                    {}

// sweepAfter is how long a pool outlives its last reference: longer than the
// publisher gathers changes, so that no served table leads to a pool that the
// registry has forgotten.
const sweepAfter = 30 * time.Second

// serviceIndex is the cache index of EndpointSlices by their Service's name.
const serviceIndex = "service"

// A request is one unit of reconciliation. Requests for many objects at once
// carry no name.
type request struct {
	kind requestKind
	name types.NamespacedName
}

type requestKind uint8

const (
	oneIngress  requestKind = iota
	oneService              // its pools: the Service or one of its EndpointSlices changed
	oneBackends             // the Secret for the backends of an Ingress changed
	allClasses              // an IngressClass changed: who is ours may have changed
	everything              // the first complete picture
	sweep                   // forget pools without references
)

// Controller reconciles one request at a time. Its worker is the only one to
// translate, so an older state of an object never overtakes a newer one.
type Controller struct {
	// const after New
	opts    Options
	reader  client.Reader // shared, trimmed objects: never written
	synced  []syncCheck
	secrets *secrets
	later   func(request, time.Duration) // set before the worker starts

	// everything following is owned by the worker
	classes *translate.Classes
	served  map[router.Key]entry
	refs    *references

	// classless says why no class is ours, nil if one is. The worker writes it.
	classless atomic.Pointer[string]

	primed chan struct{} // closed when the first complete picture has been handed over
}

// An entry is what was last handed to the publisher for one Ingress. It is
// shared with the publisher and never written.
type entry struct {
	ingress  *router.Ingress
	problems []diag.Problem
}

// Reconcile handles one request. It is called by the manager, one at a time.
func (c *Controller) Reconcile(ctx context.Context, req request) (reconcile.Result, error) {
	var err error
	switch req.kind {
	case oneIngress:
		err = c.reconcileIngress(ctx, req.name)
	case oneService:
		err = c.setPools(ctx, req.name, c.refs.byService[req.name])
	case oneBackends:
		c.reportBackends(router.Key{Namespace: req.name.Namespace, Name: req.name.Name})
	case allClasses:
		err = c.reconcileAll(ctx)
	case everything:
		if b := c.opts.DefaultBackend; b != nil {
			// Held by a key that no Ingress can have.
			c.refer(ctx, router.Key{}, []upstream.Key{upstream.Key(*b)})
		}
		if err = c.reconcileAll(ctx); err == nil {
			close(c.primed) // asked for once, see sources
		}
	case sweep:
		c.opts.Registry.Retain(c.refs.sweep(time.Now().Add(-sweepAfter)))
	}
	return reconcile.Result{}, err
}

// reconcileAll judges every Ingress by the current classes. An Ingress that is
// deleted meanwhile has an event of its own.
func (c *Controller) reconcileAll(ctx context.Context) error {
	if err := c.readClasses(ctx); err != nil {
		return err
	}
	var list networkingv1.IngressList
	if err := c.reader.List(ctx, &list); err != nil {
		return fmt.Errorf("listing Ingresses from the cache: %w", err)
	}
	for i := range list.Items {
		c.take(ctx, &list.Items[i])
	}
	return nil
}

func (c *Controller) readClasses(ctx context.Context) error {
	var list networkingv1.IngressClassList
	if err := c.reader.List(ctx, &list); err != nil {
		return fmt.Errorf("listing IngressClasses from the cache: %w", err)
	}
	all := make([]*networkingv1.IngressClass, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	c.classes = translate.NewClasses(c.opts.Translate, all)
	c.noteMissingClass(c.classes.Missing())
	return nil
}

// noteMissingClass tells that no class is ours, which no Ingress would: those of
// other classes are none of our business.
func (c *Controller) noteMissingClass(why string) {
	last := c.classless.Load()
	switch {
	case why == "" && last != nil:
		c.classless.Store(nil)
		c.opts.Log.Info("there is an IngressClass to serve", "classes", c.classes.Names())
	case why != "" && (last == nil || *last != why):
		c.classless.Store(&why)
		c.opts.Log.Error(errors.New(why), "there is no IngressClass to serve")
	}
}

func (c *Controller) reconcileIngress(ctx context.Context, name types.NamespacedName) error {
	var ing networkingv1.Ingress
	err := c.reader.Get(ctx, name, &ing)
	if apierrors.IsNotFound(err) {
		c.forget(ctx, router.Key{Namespace: name.Namespace, Name: name.Name})
		return nil
	}
	if err != nil {
		return err
	}
	if c.classes == nil { // the request for everything has not had its turn
		if err := c.readClasses(ctx); err != nil {
			return err
		}
	}
	c.take(ctx, &ing)
	return nil
}

// take hands over one Ingress as it is now, or takes it back if it is not
// ours. Its pools are set before the publisher learns of them.
func (c *Controller) take(ctx context.Context, ing *networkingv1.Ingress) {
	key := router.Key{Namespace: ing.Namespace, Name: ing.Name}
	if ours, why := c.classes.Ours(ing); !ours {
		if _, served := c.served[key]; served {
			c.opts.Log.Info("Ingress is not served any more", "ingress", key.Namespace+"/"+key.Name, "reason", why)
		}
		c.forget(ctx, key)
		return
	}
	translated, problems := translate.Ingress(ing)
	if last, ok := c.served[key]; ok &&
		reflect.DeepEqual(last.ingress, translated) && reflect.DeepEqual(last.problems, problems) {
		return
	}
	c.refer(ctx, key, translate.Backends(translated))
	c.secrets.want(key, secretsOf(translated))
	c.served[key] = entry{translated, problems}
	c.opts.Publisher.Set(translated, problems)
	c.reportBackends(key)
}

func (c *Controller) forget(ctx context.Context, key router.Key) {
	if _, ok := c.served[key]; !ok {
		return
	}
	delete(c.served, key)
	c.opts.Publisher.Delete(key)
	c.opts.Publisher.SetProblems(backendSource(key), nil)
	c.secrets.want(key, nil)
	c.refer(ctx, key, nil)
}

// refer records the pools that an Ingress leads to and sets the new ones.
func (c *Controller) refer(ctx context.Context, ing router.Key, keys []upstream.Key) {
	added, dropped := c.refs.set(ing, keys)
	for _, k := range added {
		if err := c.setPools(ctx, serviceOf(k), []upstream.Key{k}); err != nil {
			c.opts.Log.Error(err, "reading the endpoints of a pool, will try again", "pool", k.String())
			c.later(request{oneService, serviceOf(k)}, time.Second)
		}
	}
	for _, k := range dropped {
		c.opts.Publisher.SetProblems(poolSource(k), nil)
	}
	if len(dropped) > 0 {
		c.later(request{kind: sweep}, sweepAfter+time.Second)
	}
}

// setPools computes the given pools of one Service anew from the cache.
func (c *Controller) setPools(ctx context.Context, service types.NamespacedName, keys []upstream.Key) error {
	if len(keys) == 0 {
		return nil
	}
	svc := new(corev1.Service)
	if err := c.reader.Get(ctx, service, svc); apierrors.IsNotFound(err) {
		svc = nil
	} else if err != nil {
		return err
	}
	var list discoveryv1.EndpointSliceList
	err := c.reader.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingFields{serviceIndex: service.Name})
	if err != nil {
		return fmt.Errorf("listing EndpointSlices of %s from the cache: %w", service, err)
	}
	slices := make([]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		slices[i] = &list.Items[i]
	}
	for _, k := range keys {
		state, problems := translate.Pool(c.opts.Translate, k, svc, slices)
		last := c.opts.Registry.Pool(k).State()
		c.opts.Registry.Set(k, state)
		if b := c.opts.DefaultBackend; b != nil && k == upstream.Key(*b) {
			problems = append(problems, translate.DefaultBackendProblems(k, state)...)
		}
		c.opts.Publisher.SetProblems(poolSource(k), problems)
		if last.Misconfigured != state.Misconfigured || state.Misconfigured && last.Reason != state.Reason || last.Protocol != state.Protocol {
			for ing := range c.refs.users[k] {
				c.reportBackends(ing)
			}
		}
	}
	return nil
}

// reportBackends says which backends of an Ingress can never be served. These
// problems are kept apart from those of translation, so that a change of a
// Service compiles no route.
func (c *Controller) reportBackends(ing router.Key) {
	e, ok := c.served[ing]
	if !ok {
		return
	}
	c.opts.Publisher.SetProblems(backendSource(ing), translate.BackendProblems(c.opts.Translate, e.ingress, known{c}))
}

// known is what a Controller knows when backends are judged.
type known struct{ c *Controller }

// Pool implements translate.Known.
func (k known) Pool(key upstream.Key) *upstream.State { return k.c.opts.Registry.Pool(key).State() }

// Credentials implements translate.Known.
func (k known) Credentials(ref upstream.SecretRef) (*upstream.Credentials, string) {
	return k.c.opts.Registry.Credentials(ref), k.c.secrets.useOf(ref)
}

// poolSource names a pool as a source of problems.
func poolSource(k upstream.Key) string { return "pool " + k.String() }

// backendSource names the backends of an Ingress as a source of problems.
func backendSource(k router.Key) string { return "backends of " + k.Namespace + "/" + k.Name }

// secretsOf returns the Secrets that spec.tls names, and the one for backends.
func secretsOf(ing *router.Ingress) []wish {
	var refs []wish
	for _, t := range ing.TLS {
		if t.Secret != "" {
			refs = append(refs, wish{SecretRef: certstore.SecretRef{Namespace: ing.Origin.Ref.Namespace, Name: t.Secret}})
		}
	}
	if ref, ok := translate.BackendSecret(ing); ok {
		refs = append(refs, wish{certstore.SecretRef(ref), true})
	}
	return refs
}
