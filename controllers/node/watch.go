package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// watches are all that is followed. There are no informers between them and
// the owner: an object is translated once, in the goroutine of its watch, and
// let go; what is kept is the translation.
type watches struct{ all []*watched }

func newWatches(o Options, in *inbox) *watches {
	core, discovery, networking := o.Client.CoreV1(), o.Client.DiscoveryV1(), o.Client.NetworkingV1()
	ours := func(l *metav1.ListOptions) { l.LabelSelector = o.Translate.SelectServices() }
	theirs := func(l *metav1.ListOptions) { l.LabelSelector = o.Translate.SelectSlices() }
	ownNode := func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("metadata.name", o.Translate.NodeName).String()
	}
	nodes := newWatched("nodes", &corev1.Node{}, source{listOf(core.Nodes().List), core.Nodes().Watch, ownNode, false}, in, o.Client, nodeStore{in})
	nodes.without = fmt.Sprintf("there is no Node %s: --node-name must be that of this node's Node object, which the kubelet makes", o.Translate.NodeName)
	return &watches{[]*watched{
		newWatched("services", &corev1.Service{}, source{listOf(core.Services("").List), core.Services("").Watch, ours, false}, in, o.Client, serviceStore{o.Translate, in}),
		newWatched("endpointslices", &discoveryv1.EndpointSlice{}, source{listOf(discovery.EndpointSlices("").List), discovery.EndpointSlices("").Watch, theirs, false}, in, o.Client, sliceStore{o.Translate, in}),
		newWatched("servicecidrs", &networkingv1.ServiceCIDR{}, source{listOf(networking.ServiceCIDRs().List), networking.ServiceCIDRs().Watch, nil, true}, in, o.Client, cidrStore{in}),
		nodes,
	}}
}

// source is where a watch gets its objects.
type source struct {
	list   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	narrow func(*metav1.ListOptions) // nil: all
	// optional kinds may be unknown to the apiserver: then there are none.
	optional bool
}

func listOf[T runtime.Object](list func(context.Context, metav1.ListOptions) (T, error)) func(context.Context, metav1.ListOptions) (runtime.Object, error) {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return list(ctx, o) }
}

// watched is one kind of objects that is followed.
type watched struct {
	// const after newWatches
	name      string
	reflector *cache.Reflector
	// without says what is wrong if there is no object; empty: nothing is. There
	// must be one before the kind counts as delivered.
	without string

	mu        sync.Mutex // protects the following
	why       string     // why the list or watch fails; empty: it does not
	empty     bool       // the last list was, and should not have been
	delivered bool       // the first list
}

// store takes the objects of one kind. A kind that is listed again, after its
// watch broke, comes as a whole.
type store interface {
	one(object any)
	gone(object any)
	whole(objects []any)
}

func newWatched(name string, of runtime.Object, s source, in *inbox, client any, to store) *watched {
	w := &watched{name: name}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if s.narrow != nil {
				s.narrow(&o)
			}
			l, err := s.list(ctx, o)
			if s.optional && apierrors.IsNotFound(err) {
				in.put(w.deliver)
			}
			w.note(err)
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if s.narrow != nil {
				s.narrow(&o)
			}
			i, err := s.watch(ctx, o)
			w.note(err)
			return i, err
		},
	}
	w.reflector = cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), of,
		&reflected{watched: w, to: to, in: in}, cache.ReflectorOptions{Name: "portico-node " + name})
	return w
}

func (w *watched) run(ctx context.Context) { w.reflector.RunWithContext(ctx) }

// deliver notes, in the goroutine of the owner, that the first list came and
// was taken over.
func (w *watched) deliver(p *picture) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.delivered {
		w.delivered = true
		p.delivered++
	}
}

func (w *watched) note(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = ""
	if err != nil {
		w.why = err.Error()
	}
}

// Waiting lists the kinds whose first list was not delivered, and why. Safe for
// concurrent use.
func (c *Controller) Waiting() []string {
	var out []string
	for _, w := range c.watches.all {
		w.mu.Lock()
		if !w.delivered {
			out = append(out, w.missing())
		}
		w.mu.Unlock()
	}
	return out
}

// missing says why the kind is waited for. Called with mu held.
func (w *watched) missing() string {
	if w.empty {
		return w.without
	}
	text := "the first list of " + w.name + " has not been delivered"
	if w.why != "" {
		text += ": " + w.why
	}
	return text
}

// reflected is what a Reflector fills.
type reflected struct {
	*watched
	to store
	in *inbox
}

var _ cache.ReflectorStore = &reflected{}

func (r *reflected) Add(o any) error    { r.one(o); return nil }
func (r *reflected) Update(o any) error { r.one(o); return nil }
func (r *reflected) Delete(o any) error { r.to.gone(o); return nil }
func (r *reflected) Resync() error      { return nil }

func (r *reflected) one(o any) {
	r.to.one(o)
	if r.missed() {
		r.in.put(r.deliver)
	}
}

func (r *reflected) Replace(all []any, _ string) error {
	r.to.whole(all)
	if !r.lacks(len(all)) {
		r.in.put(r.deliver)
	}
	return nil
}

// missed reports whether there was no object until now that comes.
func (w *watched) missed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.empty
	w.empty = false
	return was
}

// lacks reports whether a list of n objects is not enough.
func (w *watched) lacks(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.empty = n == 0 && w.without != ""
	return w.empty
}

// cast keeps the objects of the type that is watched, which all are.
func cast[T any](objects []any) []T {
	out := make([]T, 0, len(objects))
	for _, o := range objects {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

type serviceStore struct {
	translate.NodeOptions
	in *inbox
}

// parsedService is a Service as a node sees it.
type parsedService struct {
	name     l4.Name
	service  *l4.Service // nil: not forwarded
	problems []diag.Problem
}

func (s serviceStore) parse(o *corev1.Service) parsedService {
	svc, problems := translate.NodeService(s.NodeOptions, o)
	return parsedService{l4.Name{Namespace: o.Namespace, Name: o.Name}, svc, problems}
}

func (s serviceStore) one(o any) {
	if svc, ok := o.(*corev1.Service); ok {
		parsed := s.parse(svc)
		s.in.put(func(p *picture) { p.setService(parsed) })
	}
}

func (s serviceStore) gone(o any) {
	if svc, ok := o.(*corev1.Service); ok {
		name := l4.Name{Namespace: svc.Namespace, Name: svc.Name}
		s.in.put(func(p *picture) { p.setService(parsedService{name: name}) })
	}
}

func (s serviceStore) whole(objects []any) {
	var all []parsedService
	for _, o := range cast[*corev1.Service](objects) {
		all = append(all, s.parse(o))
	}
	s.in.put(func(p *picture) { p.replaceServices(all) })
}

type sliceStore struct {
	translate.NodeOptions
	in *inbox
}

// parsedSlice is an EndpointSlice as a node sees it.
type parsedSlice struct {
	key      cache.ObjectName
	slice    *translate.NodeSlice // nil: of no use
	problems []diag.Problem
}

func (s sliceStore) parse(o *discoveryv1.EndpointSlice) parsedSlice {
	slice, problems := translate.ParseSlice(s.NodeOptions, o)
	return parsedSlice{cache.ObjectName{Namespace: o.Namespace, Name: o.Name}, slice, problems}
}

func (s sliceStore) one(o any) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		parsed := s.parse(slice)
		s.in.put(func(p *picture) { p.setSlice(parsed) })
	}
}

func (s sliceStore) gone(o any) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		key := cache.ObjectName{Namespace: slice.Namespace, Name: slice.Name}
		s.in.put(func(p *picture) { p.setSlice(parsedSlice{key: key}) })
	}
}

func (s sliceStore) whole(objects []any) {
	var all []parsedSlice
	for _, o := range cast[*discoveryv1.EndpointSlice](objects) {
		all = append(all, s.parse(o))
	}
	s.in.put(func(p *picture) { p.replaceSlices(all) })
}

type cidrStore struct{ in *inbox }

func (s cidrStore) one(o any) {
	if c, ok := o.(*networkingv1.ServiceCIDR); ok {
		s.in.put(func(p *picture) { p.cidrs[c.Name] = c; p.node.changed = true })
	}
}

func (s cidrStore) gone(o any) {
	if c, ok := o.(*networkingv1.ServiceCIDR); ok {
		s.in.put(func(p *picture) { delete(p.cidrs, c.Name); p.node.changed = true })
	}
}

func (s cidrStore) whole(objects []any) {
	all := cast[*networkingv1.ServiceCIDR](objects)
	s.in.put(func(p *picture) {
		clear(p.cidrs)
		for _, c := range all {
			p.cidrs[c.Name] = c
		}
		p.node.changed = true
	})
}

type nodeStore struct{ in *inbox }

func (s nodeStore) one(o any) {
	if n, ok := o.(*corev1.Node); ok {
		s.in.put(func(p *picture) { p.setNode(n) })
	}
}

func (s nodeStore) gone(any) { s.in.put(func(p *picture) { p.setNode(nil) }) }

func (s nodeStore) whole(objects []any) {
	nodes := cast[*corev1.Node](objects)
	s.in.put(func(p *picture) {
		p.setNode(nil)
		for _, n := range nodes {
			p.setNode(n)
		}
	})
}
