// Package status writes what users see of Portico at the apiserver: the
// addresses in an Ingress's status.loadBalancer, and an Event for every
// problem. Only the elected replica writes, and only while its Lease cannot be
// another's. The apiserver does not check that, so every update also carries
// the resourceVersion that it was decided on.
package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
)

// Publish says whose status is written.
type Publish uint8

const (
	// OwnClasses writes the status of Ingresses whose class is our own. The
	// class of another project's controller, which we serve by its name, may
	// still be that controller's to report on.
	OwnClasses Publish = iota
	// AllClasses writes the status of every Ingress we serve
	// (--publish-status).
	AllClasses
	// Nothing writes no status (--publish-status=false). Events are written.
	Nothing
)

// Options say what is written. Fixed after New.
type Options struct {
	// Translate decides which Ingresses are ours.
	Translate translate.Options
	Publish   Publish
	// Source says where the addresses come from; the zero Source knows none,
	// and then no status is written.
	Source Source
	// Lease elects the replica that writes.
	Lease Lease
	// Problems are what Events are written from.
	Problems Problems
	// Also runs while this replica is elected, until its context ends; may
	// be nil. It must do no harm where two replicas run it for a moment.
	Also func(context.Context)
	Log  logr.Logger
}

// Problems is the list of everything that is known to be wrong.
// *publish.Publisher is one.
type Problems interface {
	Problems() []diag.Problem
	// Changed returns a channel that is closed when the list may have
	// changed.
	Changed() <-chan struct{}
}

// FieldManager returns the name under which the apiserver records the status
// fields that an instance serving these controllers writes. It stays the same
// over restarts and leader changes, and differs between instances side by
// side, so it tells whether a status is still the one that we wrote.
func FieldManager(controllerNames []string) string {
	const limit = 128 // of metav1.ManagedFieldsEntry.Manager
	name := translate.DefaultControllerName
	if len(controllerNames) > 0 {
		name = controllerNames[0]
	}
	return name[:min(len(name), limit)]
}

// A writer keeps status.loadBalancer of every Ingress right.
type writer struct {
	// const after New
	translate translate.Options
	foreign   bool // write the status of other controllers' classes too
	manager   string
	cached    client.Reader // shared objects: never written
	live      client.Reader
	client    client.Client
	addresses *addresses
	holds     func() bool // whether we are elected for sure
	contests  *contests
	tell      func(context.Context, diag.Problem) // by an Event; once for each
	log       logr.Logger
}

// Reconcile compares one Ingress in the cache with what it should say. Only if
// it differs it is read from the apiserver, compared again, and updated.
func (w *writer) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var ing networkingv1.Ingress
	if err := w.cached.Get(ctx, req.NamespacedName, &ing); err != nil {
		if apierrors.IsNotFound(err) {
			w.contests.forget(req.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if _, change, err := w.decide(ctx, &ing); err != nil || !change {
		return reconcile.Result{}, err
	}
	if wait := w.contests.wait(req.NamespacedName, time.Now()); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return w.write(ctx, req) })
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("writing status.loadBalancer: %w", err)
	}
	return reconcile.Result{}, nil
}

func (w *writer) write(ctx context.Context, req reconcile.Request) error {
	var ing networkingv1.Ingress
	if err := w.live.Get(ctx, req.NamespacedName, &ing); err != nil {
		return err
	}
	want, change, err := w.decide(ctx, &ing)
	if err != nil || !change || !w.holds() {
		return err
	}
	have := ing.Status.LoadBalancer.Ingress
	ing.Status.LoadBalancer.Ingress = want
	if err := w.client.Status().Update(ctx, &ing, client.FieldOwner(w.manager)); err != nil {
		return err
	}
	w.log.V(1).Info("wrote status", "ingress", req.String(), "addresses", text(want))
	if w.contests.wrote(req.NamespacedName, strings.Join(text(want), ","), time.Now()) {
		p := contestProblem(&ing, have, want)
		w.log.Error(errors.New(p.Message), "the status of an Ingress is contested", "ingress", req.String(), "advice", p.Remedy)
		w.tell(ctx, p)
	}
	return nil
}

// decide returns the addresses that an Ingress should show, and whether that
// is a change. The status of an Ingress that is not ours is cleared if the
// apiserver says that it is the one we wrote; else it is somebody's.
func (w *writer) decide(ctx context.Context, ing *networkingv1.Ingress) (want []address, change bool, err error) {
	ours, err := w.ours(ctx, ing)
	if err != nil {
		return nil, false, err
	}
	have := ing.Status.LoadBalancer.Ingress
	if !ours {
		return nil, len(have) > 0 && w.wrote(ing), nil
	}
	want, known := w.addresses.get()
	return want, known && !equality.Semantic.DeepEqual(have, want), nil
}

// ours reports whether the status of an Ingress is ours to write.
func (w *writer) ours(ctx context.Context, ing *networkingv1.Ingress) (bool, error) {
	var list networkingv1.IngressClassList
	if err := w.cached.List(ctx, &list); err != nil {
		return false, fmt.Errorf("listing IngressClasses from the cache: %w", err)
	}
	all := make([]*networkingv1.IngressClass, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	classes := translate.NewClasses(w.translate, all)
	ours, _ := classes.Ours(ing)
	return ours && (w.foreign || !classes.Foreign(ing)), nil
}

// wrote reports whether the addresses in the status are still ours.
func (w *writer) wrote(ing *networkingv1.Ingress) bool { return wrote(ing, w.manager) }

// wrote reports whether a manager wrote the addresses in the status: whoever
// writes other addresses takes over the ownership of the field.
func wrote(ing *networkingv1.Ingress, manager string) bool {
	return slices.ContainsFunc(ing.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == manager && e.Subresource == "status" &&
			e.FieldsV1 != nil && strings.Contains(e.FieldsV1.GetRawString(), `"f:loadBalancer"`)
	})
}
