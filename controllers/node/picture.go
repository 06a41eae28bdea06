package node

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// kinds is how many kinds of objects must be delivered before anything is
// programmed: a restart must not take away what works.
const kinds = 4

// picture is what is known of the cluster. It belongs to the owner.
type picture struct {
	delivered int // first lists
	services  map[l4.Name]*service
	slices    map[cache.ObjectName]l4.Name // which Service an EndpointSlice belongs to
	cidrs     map[string]*networkingv1.ServiceCIDR
	node      ownNode
	// dirty are Services that changed since the owner looked.
	dirty map[l4.Name]bool
	// triggers are when the changes happened that slices show.
	triggers []trigger
	// problems were found since the owner looked.
	problems []diag.Problem
	// endpointChanges and serviceChanges count events since the owner looked.
	endpointChanges, serviceChanges int
	since                           time.Time // triggers before it tell of old changes
}

// trigger is a change of a pod or Service that an EndpointSlice shows.
type trigger struct {
	at   time.Time
	ipv6 bool
}

// ownNode is what is known of the node.
type ownNode struct {
	object *corev1.Node // nil: there is none
	// last is the object as it was last seen: a node whose object was deleted
	// keeps its addresses until it registers again.
	last    *corev1.Node
	changed bool // or ServiceCIDRs did
}

// service is a Service with its EndpointSlices; either may come first.
type service struct {
	service *l4.Service // without endpoints; nil: unknown, or not forwarded
	slices  map[cache.ObjectName]*translate.NodeSlice
}

func newPicture() *picture {
	return &picture{
		services: map[l4.Name]*service{}, slices: map[cache.ObjectName]l4.Name{}, cidrs: map[string]*networkingv1.ServiceCIDR{},
		dirty: map[l4.Name]bool{}, since: time.Now(),
	}
}

// complete reports whether all first lists were delivered.
func (p *picture) complete() bool { return p.delivered == kinds }

// at returns the entry of a Service, which is made if there is none, and marks
// it.
func (p *picture) at(n l4.Name) *service {
	s := p.services[n]
	if s == nil {
		s = &service{slices: map[cache.ObjectName]*translate.NodeSlice{}}
		p.services[n] = s
	}
	p.dirty[n] = true
	return s
}

func (p *picture) setService(s parsedService) {
	p.serviceChanges++
	p.problems = append(p.problems, s.problems...)
	if s.service == nil && p.services[s.name] == nil {
		return
	}
	p.at(s.name).service = s.service
	p.forget(s.name)
}

// forget drops an entry that holds nothing. It stays dirty.
func (p *picture) forget(n l4.Name) {
	if s := p.services[n]; s.service == nil && len(s.slices) == 0 {
		delete(p.services, n)
	}
}

func (p *picture) replaceServices(all []parsedService) {
	kept := make(map[l4.Name]bool, len(all))
	for _, s := range all {
		kept[s.name] = true
		p.setService(s)
	}
	for n, s := range p.services {
		if s.service != nil && !kept[n] {
			p.setService(parsedService{name: n})
		}
	}
}

func (p *picture) setSlice(s parsedSlice) {
	p.endpointChanges++
	p.problems = append(p.problems, s.problems...)
	if old, known := p.slices[s.key]; known && (s.slice == nil || s.slice.Service != old) {
		delete(p.at(old).slices, s.key)
		delete(p.slices, s.key)
		p.forget(old)
	}
	if s.slice == nil {
		return
	}
	p.slices[s.key] = s.slice.Service
	p.at(s.slice.Service).slices[s.key] = s.slice
	if s.slice.Changed.After(p.since) {
		p.triggers = append(p.triggers, trigger{s.slice.Changed, s.slice.IPv6})
	}
}

func (p *picture) replaceSlices(all []parsedSlice) {
	kept := make(map[cache.ObjectName]bool, len(all))
	for _, s := range all {
		kept[s.key] = true
		p.setSlice(s)
	}
	for key := range p.slices {
		if !kept[key] {
			p.setSlice(parsedSlice{key: key})
		}
	}
}

// setNode takes over the node's own object. Its status is written every few
// minutes; nothing happens unless something of interest changed.
func (p *picture) setNode(n *corev1.Node) {
	p.node.object, p.node.changed = n, true
	if n != nil {
		p.node.last = n
	}
}

// forwarded returns the Service with its endpoints; nil: it is not forwarded.
// The order of slices does not matter to the planner; that it stays the same
// makes comparing them cheap.
func (p *picture) forwarded(n l4.Name) *l4.Service {
	s := p.services[n]
	if s == nil || s.service == nil {
		return nil
	}
	keys := slices.SortedFunc(maps.Keys(s.slices), compareNames)
	list := make([]*translate.NodeSlice, len(keys))
	for i, k := range keys {
		list[i] = s.slices[k]
	}
	return translate.WithEndpoints(s.service, list)
}

func compareNames(a, b cache.ObjectName) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
