package l4

import (
	"net/netip"
	"slices"
)

// stale notes the UDP flows that must be forgotten because old became fresh.
// Policies and topology do not matter: a flow to an endpoint that serves is
// kept, as a TCP connection would be.
func (c *Change) stale(old, fresh *Forwarding) {
	if fresh.Key.Protocol != UDP {
		return
	}
	gone := difference(old.Serving, fresh.Serving, netip.AddrPort.Compare).Removed
	kept, removed, added := compareFronts(old.Fronts, fresh.Fronts)
	// While nobody served, flows to an address of the node itself went untranslated.
	first := len(old.Serving) == 0 && len(fresh.Serving) > 0
	c.addStale(kept, Stale{Key: fresh.Key, Gone: gone, Untranslated: first, Serving: fresh.Serving})
	c.addStale(added, Stale{Key: fresh.Key, Gone: gone, Untranslated: true, Serving: fresh.Serving})
	c.addStale(removed, Stale{Key: fresh.Key, Gone: old.Serving})
}

func (c *Change) addStale(fronts []Front, s Stale) {
	if len(s.Gone) == 0 && !s.Untranslated {
		return
	}
	for _, f := range fronts {
		if f.Kind == NodePort {
			s.NodePort = f.Port
		} else {
			s.Destinations = append(s.Destinations, netip.AddrPortFrom(f.Address, f.Port))
		}
	}
	if len(s.Destinations) > 0 || s.NodePort != 0 {
		slices.SortFunc(s.Destinations, netip.AddrPort.Compare)
		c.Stale = append(c.Stale, s)
	}
}

// compareFronts splits the fronts of two Forwardings by whether they are in
// both, regardless of what happens at them.
func compareFronts(old, fresh []Front) (kept, removed, added []Front) {
	same := func(f Front) func(Front) bool {
		return func(o Front) bool {
			return o.Address == f.Address && o.Port == f.Port && (o.Kind == NodePort) == (f.Kind == NodePort)
		}
	}
	for _, f := range old {
		if !slices.ContainsFunc(fresh, same(f)) {
			removed = append(removed, f)
		}
	}
	for _, f := range fresh {
		if slices.ContainsFunc(old, same(f)) {
			kept = append(kept, f)
		} else {
			added = append(added, f)
		}
	}
	return kept, removed, added
}
