package ingress

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
)

// references knows which pools the served Ingresses lead to, and finds them by
// Service, so that a Service or EndpointSlice event costs what its own pools
// cost. Owned by the reconcile worker.
type references struct {
	byIngress map[router.Key][]upstream.Key
	users     map[upstream.Key]map[router.Key]struct{}
	byService map[types.NamespacedName][]upstream.Key
	// gone are pools that lost their last reference, and when: the served
	// table may still lead there.
	gone map[upstream.Key]time.Time
}

func newReferences() *references {
	return &references{
		byIngress: make(map[router.Key][]upstream.Key),
		users:     make(map[upstream.Key]map[router.Key]struct{}),
		byService: make(map[types.NamespacedName][]upstream.Key),
		gone:      make(map[upstream.Key]time.Time),
	}
}

// set replaces what ing refers to, and returns the pools that are referred to
// for the first time and those that no longer are.
func (r *references) set(ing router.Key, keys []upstream.Key) (added, dropped []upstream.Key) {
	for _, k := range keys {
		if r.users[k] == nil {
			added = append(added, k)
			r.add(k)
		}
		r.users[k][ing] = struct{}{}
	}
	for _, k := range r.byIngress[ing] {
		if slices.Contains(keys, k) {
			continue
		}
		if delete(r.users[k], ing); len(r.users[k]) == 0 {
			dropped = append(dropped, k)
			r.drop(k)
		}
	}
	if len(keys) == 0 {
		delete(r.byIngress, ing)
	} else {
		r.byIngress[ing] = keys
	}
	return added, dropped
}

func (r *references) add(k upstream.Key) {
	r.users[k] = make(map[router.Key]struct{})
	delete(r.gone, k)
	s := serviceOf(k)
	r.byService[s] = append(r.byService[s], k)
}

func (r *references) drop(k upstream.Key) {
	delete(r.users, k)
	r.gone[k] = time.Now()
	s := serviceOf(k)
	rest := slices.DeleteFunc(r.byService[s], func(o upstream.Key) bool { return o == k })
	if len(rest) == 0 {
		delete(r.byService, s)
	} else {
		r.byService[s] = rest
	}
}

// sweep forgets the pools that went before the given time, and returns those
// to keep.
func (r *references) sweep(before time.Time) map[upstream.Key]struct{} {
	keep := make(map[upstream.Key]struct{}, len(r.users)+len(r.gone))
	for k := range r.users {
		keep[k] = struct{}{}
	}
	for k, when := range r.gone {
		if when.Before(before) {
			delete(r.gone, k)
		} else {
			keep[k] = struct{}{}
		}
	}
	return keep
}

func serviceOf(k upstream.Key) types.NamespacedName {
	return types.NamespacedName{Namespace: k.Namespace, Name: k.Service}
}
