package l4

import "slices"

// census counts what decides which endpoints are used.
type census struct {
	ready                 int // endpoints that are ready
	nodeHinted, nodeHere  int // of those, with hints for nodes, and for this one
	zoneHinted, zoneHere  int // of those, with hints for zones, and for this one
	fading                int // serving and terminating, without being ready
	localReady, localFade int // of those on this node
}

// count adds the endpoints of a group n times.
func (c *census) count(g *Group, n int, node *Node) {
	for i := range g.Endpoints {
		e := &g.Endpoints[i]
		switch {
		case e.Ready:
			c.ready += n
			c.countHints(e, n, node)
			if e.Local {
				c.localReady += n
			}
		case e.fading():
			c.fading += n
			if e.Local {
				c.localFade += n
			}
		}
	}
}

func (c *census) countHints(e *Endpoint, n int, node *Node) {
	if len(e.ForNodes) > 0 {
		c.nodeHinted += n
	}
	if len(e.ForZones) > 0 {
		c.zoneHinted += n
	}
	if slices.Contains(e.ForNodes, node.Name) {
		c.nodeHere += n
	}
	if slices.Contains(e.ForZones, node.Zone) {
		c.zoneHere += n
	}
}

// any reports whether there is a usable endpoint anywhere.
func (c *census) any() bool { return c.ready+c.fading > 0 }

// fading endpoints are on their way out and still answer.
func (e *Endpoint) fading() bool { return !e.Ready && e.Serving && e.Terminating }

// source says which endpoints a pool is made of.
type source uint8

const (
	none     source = iota
	ready           // all that are ready
	thisNode        // those that are hinted to this node (trafficDistribution PreferSameNode)
	thisZone        // those that are hinted to this zone (PreferSameZone)
	fading          // none is ready: those that terminate and still serve
)

func (s source) takes(e *Endpoint, node *Node) bool {
	switch s {
	case ready:
		return e.Ready
	case thisNode:
		return e.Ready && slices.Contains(e.ForNodes, node.Name)
	case thisZone:
		return e.Ready && slices.Contains(e.ForZones, node.Zone)
	case fading:
		return e.fading()
	}
	return false
}

// selection is what the two pools of a port are made of.
type selection struct{ cluster, local source }

// choose decides the selection. Readiness falls back for each pool by itself;
// hints only count for the cluster pool, and only if every ready endpoint has
// some and one is meant for us.
func (c *census) choose(usesCluster, usesLocal bool) selection {
	var s selection
	if usesCluster {
		s.cluster = c.clusterSource()
	}
	switch {
	case !usesLocal:
	case c.localReady > 0:
		s.local = ready
	case c.localFade > 0:
		s.local = fading
	}
	return s
}

func (c *census) clusterSource() source {
	switch {
	case c.ready == 0:
		return fading
	case c.nodeHinted == c.ready && c.nodeHere > 0:
		return thisNode
	case c.zoneHinted == c.ready && c.zoneHere > 0:
		return thisZone
	}
	return ready
}

// The pools of a port.
const (
	clusterPool = iota
	localPool
	hairpinPool
	servingPool
	pools
)

// member reports whether an endpoint belongs to a pool.
func (s selection) member(which int, e *Endpoint, p Protocol, node *Node) bool {
	switch which {
	case clusterPool:
		return s.cluster.takes(e, node)
	case localPool:
		return e.Local && s.local.takes(e, node)
	case hairpinPool:
		return e.Local && (s.cluster.takes(e, node) || s.local.takes(e, node))
	}
	return p == UDP && e.Serving
}

// uses reports whether a pool can have members at all.
func (s selection) uses(which int, p Protocol) bool {
	switch which {
	case clusterPool:
		return s.cluster != none
	case localPool:
		return s.local != none
	case servingPool:
		return p == UDP
	}
	return true
}
