package admin

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
)

// snapshotJSON is the served snapshot as programs read it.
type snapshotJSON struct {
	Generation uint64     `json:"generation"`
	Published  time.Time  `json:"published"`
	Hosts      []hostJSON `json:"hosts"`
	Default    *routeJSON `json:"default,omitempty"`
	Pools      []poolJSON `json:"pools"`
}

type hostJSON struct {
	Host    string      `json:"host"` // empty: hosts that no rule names
	Owner   string      `json:"owner"`
	TLS     *tlsJSON    `json:"tls,omitempty"`
	Routes  []routeJSON `json:"routes"`
	Default *routeJSON  `json:"default,omitempty"`
}

type tlsJSON struct {
	Secret  string `json:"secret,omitempty"` // empty: the default certificate
	Ingress string `json:"ingress"`
	Field   string `json:"field"`
}

type routeJSON struct {
	Path     string `json:"path,omitempty"`
	PathType string `json:"pathType,omitempty"`
	Backend  string `json:"backend"`
	Ingress  string `json:"ingress,omitempty"`
	Field    string `json:"field,omitempty"`
	Policy   string `json:"policy,omitempty"`
}

type poolJSON struct {
	Name      string         `json:"name"`
	Reason    string         `json:"reason,omitempty"` // why there is no endpoint
	Endpoints []endpointJSON `json:"endpoints"`
}

type endpointJSON struct {
	Address string `json:"address"`
	State   string `json:"state"`
	Target  string `json:"target,omitempty"`
	Node    string `json:"node,omitempty"`
	Zone    string `json:"zone,omitempty"`
}

func tableJSON(snap *publish.Snapshot) snapshotJSON {
	out := snapshotJSON{Generation: snap.Generation, Published: snap.Published, Hosts: []hostJSON{},
		Default: newRouteJSON(snap.Table.Global()), Pools: poolsJSON(snap)}
	for _, h := range snap.Table.Hosts() {
		host := hostJSON{Host: h.Name, Owner: h.Owner.Name(), Routes: []routeJSON{}, Default: newRouteJSON(h.Default)}
		if h.TLS != nil {
			host.TLS = &tlsJSON{Secret: h.TLS.Secret, Ingress: h.TLS.Origin.Name(), Field: h.TLS.Field}
		}
		for _, r := range h.Routes {
			host.Routes = append(host.Routes, *newRouteJSON(r))
		}
		out.Hosts = append(out.Hosts, host)
	}
	return out
}

func newRouteJSON(r *router.Route) *routeJSON {
	if r == nil {
		return nil
	}
	out := &routeJSON{Path: r.Path, Backend: r.Backend.String(), Ingress: r.Ingress, Field: r.Field, Policy: r.Policy.String()}
	if r.Path != "" {
		out.PathType = r.Type.String()
	}
	return out
}

// poolsJSON returns the pools of the table by name.
func poolsJSON(snap *publish.Snapshot) []poolJSON {
	out := []poolJSON{}
	for _, p := range snap.Pools {
		if p == nil { // an index that no route uses
			continue
		}
		state := p.State()
		pool := poolJSON{Name: p.Key().String(), Reason: state.Reason, Endpoints: []endpointJSON{}}
		for _, e := range state.Endpoints {
			pool.Endpoints = append(pool.Endpoints, endpointJSON{address(e), endpointState(e), e.Target, e.Node, e.Zone})
		}
		out = append(out, pool)
	}
	slices.SortFunc(out, func(a, b poolJSON) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func address(e upstream.Endpoint) string {
	if e.Host != "" {
		return e.Host + ":" + strconv.Itoa(int(e.Port))
	}
	return e.Addr.String()
}
