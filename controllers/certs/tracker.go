package certs

import (
	"context"
	"fmt"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/controllers/translate"
)

// Tracker keeps the Ingresses with TLS at hand, so that a plan costs what they
// cost, not what all Ingresses of the cluster do. Safe for concurrent use.
type Tracker struct {
	opts    translate.Options // const after NewTracker
	changed func()            // const after NewTracker

	mu        sync.Mutex // protects the following
	ingresses map[types.NamespacedName]*networkingv1.Ingress
	classes   map[string]*networkingv1.IngressClass
}

// NewTracker returns a Tracker that calls changed, which must not block.
func NewTracker(opts translate.Options, changed func()) *Tracker {
	return &Tracker{opts: opts, changed: changed, ingresses: make(map[types.NamespacedName]*networkingv1.Ingress), classes: make(map[string]*networkingv1.IngressClass)}
}

// Follow listens to the informers of a cache, whose objects are never written.
func (t *Tracker) Follow(c cache.Cache) error {
	for _, obj := range []client.Object{&networkingv1.Ingress{}, &networkingv1.IngressClass{}} {
		informer, err := c.GetInformer(context.Background(), obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("following %T: %w", obj, err)
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { t.set(obj, true) },
			UpdateFunc: func(_, obj any) { t.set(obj, true) },
			DeleteFunc: func(obj any) {
				if d, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
					obj = d.Obj
				}
				t.set(obj, false)
			},
		}); err != nil {
			return fmt.Errorf("following %T: %w", obj, err)
		}
	}
	return nil
}

func (t *Tracker) set(obj any, exists bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch o := obj.(type) {
	case *networkingv1.Ingress:
		name := client.ObjectKeyFromObject(o)
		_, had := t.ingresses[name]
		delete(t.ingresses, name)
		if exists && (len(o.Spec.TLS) > 0 || translate.CertificateWish(o.Annotations).By != "") {
			t.ingresses[name] = o
		} else if !had {
			return
		}
	case *networkingv1.IngressClass:
		delete(t.classes, o.Name)
		if exists {
			t.classes[o.Name] = o
		}
	}
	t.changed()
}

// Ours returns the Ingresses with TLS that are ours, in no order.
func (t *Tracker) Ours(context.Context) ([]*networkingv1.Ingress, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*networkingv1.IngressClass
	for _, c := range t.classes {
		all = append(all, c)
	}
	classes := translate.NewClasses(t.opts, all)
	var ours []*networkingv1.Ingress
	for _, ing := range t.ingresses {
		if is, _ := classes.Ours(ing); is {
			ours = append(ours, ing)
		}
	}
	return ours, nil
}
