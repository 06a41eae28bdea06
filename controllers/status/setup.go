package status

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingresses,verbs=get;list;watch
//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingresses/status,verbs=update
//+kubebuilder:rbac:groups=networking.k8s.io,resources=ingressclasses,verbs=list;watch
//+kubebuilder:rbac:groups="",resources=services;nodes,verbs=list;watch
//+kubebuilder:rbac:groups="",resources=pods,verbs=list;watch,namespace=portico-system
//+kubebuilder:rbac:groups="",resources=events,verbs=create;patch
//+kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update,namespace=portico-system

// syncTimeout: as long as the apiserver cannot be reached there is nothing to
// write; that is no reason to end the process.
const syncTimeout = 10 * 365 * 24 * time.Hour

// New adds the writers of status and Events to mgr, whose cache holds Ingress
// and IngressClass. They run only on the elected replica.
func New(mgr manager.Manager, opts Options) error {
	if err := opts.Source.Validate(); err != nil {
		return err
	}
	if err := mgr.Add(newEvents(mgr.GetClient(), opts)); err != nil {
		return err
	}
	if opts.Publish == Nothing || opts.Source.none() {
		return nil
	}
	return addWriter(mgr, opts)
}

// none reports that there are no addresses to publish.
func (s Source) none() bool {
	return s.Service == (types.NamespacedName{}) && len(s.Addresses) == 0 && !s.Nodes
}

func addWriter(mgr manager.Manager, opts Options) error {
	w := &writer{
		translate: opts.Translate,
		foreign:   opts.Publish == AllClasses,
		manager:   FieldManager(opts.Translate.ControllerNames),
		cached:    mgr.GetCache(),
		live:      mgr.GetAPIReader(),
		client:    mgr.GetClient(),
		addresses: &addresses{source: opts.Source, log: opts.Log},
		log:       opts.Log,
	}
	worker, err := controller.New("status", mgr, controller.Options{
		Reconciler:              w,
		MaxConcurrentReconciles: 4, // each waits for the apiserver
		CacheSyncTimeout:        syncTimeout,
		Logger:                  opts.Log,
	})
	if err != nil {
		return err
	}
	shared := mgr.GetCache()
	if err := worker.Watch(source.Kind(shared, &networkingv1.Ingress{}, &handler.TypedEnqueueRequestForObject[*networkingv1.Ingress]{})); err != nil {
		return err
	}
	if err := worker.Watch(source.Kind(shared, &networkingv1.IngressClass{}, all[*networkingv1.IngressClass](w, nil))); err != nil {
		return err
	}
	return w.watchSource(mgr, worker, opts.Source)
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
func (w *writer) watchSource(mgr manager.Manager, worker controller.Controller, from Source) error {
	if len(from.Addresses) > 0 {
		w.addresses.refresh(context.Background()) // reads nothing
		return nil
	}
	own, err := cache.New(mgr.GetConfig(), from.cacheOptions(mgr))
	if err != nil {
		return fmt.Errorf("watching the source of addresses: %w", err)
	}
	w.addresses.reader = own
	if err := mgr.Add(elected(own.Start)); err != nil {
		return err
	}
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

// elected is a part of a manager that runs only on the elected replica.
type elected func(context.Context) error

// Start runs the part.
func (f elected) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection says that it waits for election.
func (elected) NeedLeaderElection() bool { return true }
