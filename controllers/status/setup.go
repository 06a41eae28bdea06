package status

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
)

//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingresses,verbs=get;list;watch
//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingresses/status,verbs=update
//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingressclasses,verbs=list;watch
//+kubebuilder:rbac:groups="",resources=services;nodes,verbs=list;watch
//+kubebuilder:rbac:groups="",resources=pods,verbs=list;watch,namespace=portico-system
//+kubebuilder:rbac:groups="",resources=events,verbs=create
//+kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update,namespace=portico-system

// syncTimeout: as long as the apiserver cannot be reached there is nothing to
// write; that is no reason to end the process.
const syncTimeout = 10 * 365 * 24 * time.Hour

// New adds the writers of status and Events to mgr, whose cache holds Ingress
// and IngressClass. Replicas elect the one that writes by opts.Lease; the
// manager's own election is neither needed nor wanted.
func New(mgr manager.Manager, opts Options) error {
	if err := opts.Source.Validate(); err != nil {
		return err
	}
	t := &writers{mgr: mgr, opts: opts}
	if t.publishes() && opts.Publish == OwnClasses && translate.ServesForeign(opts.Translate) {
		opts.Log.Info("the status of Ingresses of other projects' classes is not written; ask for it with --publish-status")
	}
	e, err := newElection(mgr.GetConfig(), opts.Lease, t.run, opts.Log)
	if err != nil {
		return err
	}
	return mgr.Add(e)
}

// writers are what an elected replica runs, made anew for each term.
type writers struct {
	mgr  manager.Manager
	opts Options
}

func (t *writers) publishes() bool { return t.opts.Publish != Nothing && !t.opts.Source.none() }

// none reports that there are no addresses to publish.
func (s Source) none() bool {
	return s.Service == (types.NamespacedName{}) && len(s.Addresses) == 0 && !s.Nodes
}

// run writes until ctx ends.
func (t *writers) run(ctx context.Context, holds func() bool) {
	var group sync.WaitGroup
	group.Go(func() { newEvents(t.mgr.GetClient(), t.opts, holds).run(ctx) })
	if t.opts.Also != nil {
		group.Go(func() { t.opts.Also(ctx) })
	}
	if t.publishes() {
		group.Go(func() {
			// As long as this replica leads, no other one will do it.
			wait.UntilWithContext(ctx, func(ctx context.Context) {
				if err := t.writeStatus(ctx, holds); err != nil && ctx.Err() == nil {
					t.opts.Log.Error(err, "writing status ended, will begin again")
				}
			}, 10*time.Second)
		})
	}
	group.Wait()
}

// writeStatus keeps the status of every Ingress right until ctx ends.
func (t *writers) writeStatus(ctx context.Context, holds func() bool) (err error) {
	shared := &termCache{Cache: t.mgr.GetCache()}
	defer func() { err = errors.Join(err, shared.end()) }()
	events := newEvents(t.mgr.GetClient(), t.opts, holds)
	w := &writer{
		translate: t.opts.Translate,
		foreign:   t.opts.Publish == AllClasses,
		manager:   FieldManager(t.opts.Translate.ControllerNames),
		cached:    shared,
		live:      t.mgr.GetAPIReader(),
		client:    t.mgr.GetClient(),
		addresses: &addresses{source: t.opts.Source, log: t.opts.Log},
		holds:     holds,
		contests:  newContests(),
		tell:      func(ctx context.Context, p diag.Problem) { events.create(ctx, eventName(p), p) },
		log:       t.opts.Log,
	}
	skip := true // the name is the same in every term
	worker, err := controller.NewUnmanaged("status", controller.Options{
		Reconciler:              w,
		MaxConcurrentReconciles: 4, // each waits for the apiserver
		CacheSyncTimeout:        syncTimeout,
		SkipNameValidation:      &skip,
		Logger:                  t.opts.Log,
	})
	if err != nil {
		return err
	}
	if err := worker.Watch(source.Kind(shared, &networkingv1.Ingress{}, &handler.TypedEnqueueRequestForObject[*networkingv1.Ingress]{})); err != nil {
		return err
	}
	if err := worker.Watch(source.Kind(shared, &networkingv1.IngressClass{}, all[*networkingv1.IngressClass](w, nil))); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if err := t.watchSource(ctx, group, w, worker); err != nil {
		return err
	}
	group.Go(func() error { return worker.Start(ctx) })
	return group.Wait()
}

// all queues every Ingress, if the condition holds or is nil.
func all[T client.Object](w *writer, condition func(context.Context) bool) handler.TypedEventHandler[T, reconcile.Request] {
	return handler.TypedEnqueueRequestsFromMapFunc(func(ctx context.Context, _ T) []reconcile.Request {
		if condition != nil && !condition(ctx) {
			return nil
		}
		var list networkingv1.IngressList
		if err := w.cached.List(ctx, &list); err != nil {
			w.log.Error(err, "listing Ingresses from the cache")
			return nil
		}
		reqs := make([]reconcile.Request, len(list.Items))
		for i := range list.Items {
			reqs[i].NamespacedName = client.ObjectKeyFromObject(&list.Items[i])
		}
		return reqs
	})
}

// watchSource keeps the addresses current, from a cache of their own that only
// the elected replica runs: the objects may lie outside the watched
// namespaces, and nobody else needs them.
func (t *writers) watchSource(ctx context.Context, group *errgroup.Group, w *writer, worker controller.Controller) error {
	from := t.opts.Source
	if len(from.Addresses) > 0 {
		w.addresses.refresh(ctx) // reads nothing
		return nil
	}
	own, err := cache.New(t.mgr.GetConfig(), from.cacheOptions(t.mgr))
	if err != nil {
		return fmt.Errorf("watching the source of addresses: %w", err)
	}
	w.addresses.reader = own
	group.Go(func() error { return own.Start(ctx) })
	changed := w.addresses.refresh
	if !from.Nodes {
		return worker.Watch(source.Kind(own, &corev1.Service{}, all[*corev1.Service](w, changed)))
	}
	if len(from.Pods.Labels) > 0 {
		if err := worker.Watch(source.Kind(own, &corev1.Pod{}, all[*corev1.Pod](w, changed))); err != nil {
			return err
		}
	}
	return worker.Watch(source.Kind(own, &corev1.Node{}, all[*corev1.Node](w, changed)))
}

func (s Source) cacheOptions(mgr manager.Manager) cache.Options {
	opts := cache.Options{
		HTTPClient:       mgr.GetHTTPClient(),
		Scheme:           mgr.GetScheme(),
		Mapper:           mgr.GetRESTMapper(),
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject:         map[client.Object]cache.ByObject{},
	}
	if !s.Nodes {
		opts.ByObject[&corev1.Service{}] = cache.ByObject{Namespaces: map[string]cache.Config{
			s.Service.Namespace: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, s.Service.Name)},
		}}
		return opts
	}
	opts.ByObject[&corev1.Node{}] = cache.ByObject{Transform: trimNode}
	if len(s.Pods.Labels) > 0 {
		opts.ByObject[&corev1.Pod{}] = cache.ByObject{
			Namespaces: map[string]cache.Config{s.Pods.Namespace: {LabelSelector: labels.SelectorFromSet(s.Pods.Labels)}},
			Transform:  trimPod,
		}
	}
	return opts
}

func trimNode(in any) (any, error) {
	if n, ok := in.(*corev1.Node); ok {
		n.ManagedFields, n.Annotations, n.Labels, n.Spec = nil, nil, nil, corev1.NodeSpec{}
		n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses, Conditions: n.Status.Conditions}
	}
	return in, nil
}

func trimPod(in any) (any, error) {
	if p, ok := in.(*corev1.Pod); ok {
		p.ManagedFields, p.Annotations = nil, nil
		p.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName}
		p.Status = corev1.PodStatus{Conditions: p.Status.Conditions}
	}
	return in, nil
}
