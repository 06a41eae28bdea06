package ingress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/portico-ingress/portico/router"
)

//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingresses;ingressclasses,verbs=list;watch
//+kubebuilder:rbac:groups="",resources=services,verbs=list;watch
//+kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=list;watch
//+kubebuilder:rbac:groups="",resources=secrets,verbs=list;watch

// syncTimeout replaces controller-runtime's two minutes, after which a process
// that cannot reach its apiserver would end: we stay, not ready, and go on
// trying.
const syncTimeout = 10 * 365 * 24 * time.Hour

// New makes a Controller that runs with mgr, whose cache must have been made
// with CacheOptions, and its RESTMapper with NewRESTMapper. It runs on every
// replica, elected or not.
func New(mgr manager.Manager, opts Options) (*Controller, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	core, err := coreClient(mgr)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		opts:    opts,
		reader:  mgr.GetCache(),
		secrets: newSecrets(core, opts),
		served:  make(map[router.Key]entry),
		refs:    newReferences(),
		primed:  make(chan struct{}),
	}
	c.secrets.onBackend = func(k router.Key) {
		c.later(request{oneBackends, types.NamespacedName{Namespace: k.Namespace, Name: k.Name}}, 0)
	}
	if err := c.watch(mgr); err != nil {
		return nil, err
	}
	return c, mgr.Add(everyReplica(c.release))
}

func (o *Options) validate() error {
	var errs []error
	if o.Publisher == nil || o.Registry == nil || o.Certs == nil {
		errs = append(errs, errors.New("publisher, registry and certificate store must be given"))
	}
	if b := o.DefaultBackend; b != nil && len(o.Namespaces) > 0 && !slices.Contains(o.Namespaces, b.Namespace) {
		errs = append(errs, fmt.Errorf("the default backend %s is in namespace %q, which is not watched; add it to the namespaces", b, b.Namespace))
	}
	return errors.Join(errs...)
}

// coreClient is a client without client-side rate limit: watches of Secrets
// pace themselves, and the apiserver has fair queues.
func coreClient(mgr manager.Manager) (corev1client.CoreV1Interface, error) {
	cfg := rest.CopyConfig(mgr.GetConfig())
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	core, err := corev1client.NewForConfigAndClient(cfg, mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("making a client for Secrets: %w", err)
	}
	return core, nil
}

// watch sets up the informers and the worker that they feed.
func (c *Controller) watch(mgr manager.Manager) error {
	shared := mgr.GetCache()
	if err := shared.IndexField(context.Background(), &discoveryv1.EndpointSlice{}, serviceIndex, indexByService); err != nil {
		return fmt.Errorf("indexing EndpointSlices by Service: %w", err)
	}
	for _, w := range watched {
		// The manager starts the informer; waiting for it here would
		// wait for ever.
		informer, err := shared.GetInformer(context.Background(), w.object, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watching %s: %w", w.name, err)
		}
		c.synced = append(c.synced, syncCheck{w.name, w.object, informer.HasSynced})
	}
	elected := false
	worker, err := controller.NewTyped("ingress", mgr, controller.TypedOptions[request]{
		Reconciler:         c,
		NeedLeaderElection: &elected,
		CacheSyncTimeout:   syncTimeout,
		Logger:             c.opts.Log,
	})
	if err != nil {
		return err
	}
	for _, s := range c.sources(shared) {
		if err := worker.Watch(s); err != nil {
			return err
		}
	}
	return nil
}

var watched = []struct {
	name   string
	object client.Object
}{
	{"ingresses", &networkingv1.Ingress{}},
	{"ingressclasses", &networkingv1.IngressClass{}},
	{"services", &corev1.Service{}},
	{"endpointslices", &discoveryv1.EndpointSlice{}},
}

// sources are what the worker's queue is filled from. The request for
// everything is queued once; the worker starts when all sources are in sync,
// so it finds everything that existed then.
func (c *Controller) sources(shared cache.Cache) []source.TypedSource[request] {
	return []source.TypedSource[request]{
		source.TypedKind(shared, &networkingv1.Ingress{}, enqueue(func(i *networkingv1.Ingress) (request, bool) {
			return request{oneIngress, client.ObjectKeyFromObject(i)}, true
		})),
		source.TypedKind(shared, &networkingv1.IngressClass{}, enqueue(func(*networkingv1.IngressClass) (request, bool) {
			return request{kind: allClasses}, true
		})),
		source.TypedKind(shared, &corev1.Service{}, enqueue(func(s *corev1.Service) (request, bool) {
			return request{oneService, client.ObjectKeyFromObject(s)}, true
		})),
		source.TypedKind(shared, &discoveryv1.EndpointSlice{}, enqueue(func(s *discoveryv1.EndpointSlice) (request, bool) {
			names := indexByService(s)
			if len(names) == 0 {
				return request{}, false
			}
			return request{oneService, types.NamespacedName{Namespace: s.Namespace, Name: names[0]}}, true
		})),
		source.TypedFunc[request](func(_ context.Context, q workqueue.TypedRateLimitingInterface[request]) error {
			c.later = q.AddAfter
			q.Add(request{kind: everything})
			return nil
		}),
	}
}

// enqueue makes a handler that queues one request per object, for the old and
// the new state of an update.
func enqueue[T client.Object](of func(T) (request, bool)) handler.TypedEventHandler[T, request] {
	return handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, obj T) []request {
		if req, ok := of(obj); ok {
			return []request{req}
		}
		return nil
	})
}

func indexByService(obj client.Object) []string {
	if name := obj.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{name}
	}
	return nil
}

// release runs the Secret watches, and lets the publisher go once the first
// complete picture is there: every object handed over, every wanted Secret
// delivered or refused.
func (c *Controller) release(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.secrets.run(ctx)
	}()
	defer func() { <-done }()
	select {
	case <-c.primed:
	case <-ctx.Done():
		return nil
	}
	if c.opts.Await != nil {
		c.opts.Await(ctx)
	}
	if c.secrets.settled(ctx) && ctx.Err() == nil {
		c.logDefaultCertificate()
		c.opts.Publisher.Release()
	}
	<-ctx.Done()
	return nil
}

// logDefaultCertificate says what is wrong with --default-tls-secret. There is
// an Event too, but whoever set the flag looks into the log first.
func (c *Controller) logDefaultCertificate() {
	for _, p := range c.opts.Certs.Problems() {
		if ref := c.opts.DefaultTLSSecret; p.Object.Kind == "Secret" && p.Object.Namespace == ref.Namespace && p.Object.Name == ref.Name {
			c.opts.Log.Error(errors.New(p.Text()), "the default certificate has a problem", "secret", ref.String())
		}
	}
}

// everyReplica is a part of a manager that does not wait for election.
type everyReplica func(context.Context) error

// Start runs the part.
func (f everyReplica) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection says that it runs on every replica.
func (everyReplica) NeedLeaderElection() bool { return false }
