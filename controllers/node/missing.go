package node

import "github.com/portico-ingress/portico/router/l4"

// localEndpoints are the ports that have endpoints, but none on this node, where
// a policy Local asks for them. They belong to the owner.
type localEndpoints struct {
	missing map[l4.PortKey]missing
	// count is how many they are, by whether it is IPv6: nobody goes through all
	// of them for a change.
	count map[bool]missingCount
}

// missing tells which policies find no endpoint.
type missing struct{ internal, external bool }

type missingCount struct{ internal, external int }

func newLocalEndpoints() *localEndpoints {
	return &localEndpoints{missing: map[l4.PortKey]missing{}, count: map[bool]missingCount{}}
}

func (l *localEndpoints) set(f *l4.Forwarding) {
	l.forget(f.Key)
	if m := (missing{f.NoLocalInternal, f.NoLocalExternal}); m != (missing{}) {
		l.missing[f.Key] = m
		l.add(f.Key.IPv6, m, 1)
	}
}

func (l *localEndpoints) forget(k l4.PortKey) {
	if m, known := l.missing[k]; known {
		delete(l.missing, k)
		l.add(k.IPv6, m, -1)
	}
}

func (l *localEndpoints) add(ipv6 bool, m missing, n int) {
	c := l.count[ipv6]
	if m.internal {
		c.internal += n
	}
	if m.external {
		c.external += n
	}
	l.count[ipv6] = c
}

func (l *localEndpoints) reset(p *l4.Plan) {
	clear(l.missing)
	clear(l.count)
	for _, f := range p.Forwardings {
		l.set(f)
	}
}
