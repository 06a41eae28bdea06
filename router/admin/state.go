package admin

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/certstore"
)

// maxCertificates bounds the series of certificates; those that end first are
// shown.
const maxCertificates = 10_000

// Sources are what the pages and metrics read. Publisher, Registry and Certs
// are required.
type Sources struct {
	Publisher *publish.Publisher
	Registry  *upstream.Registry
	Certs     *certstore.Store
	// AccessLogDrops returns how many lines of the access log were dropped
	// so far; may be nil.
	AccessLogDrops func() int64
	// Connections counts those of clients; may be nil.
	Connections func() Connections
	// Managed returns the certificates that Portico gets itself; may be nil.
	Managed func() []ManagedCertificate
}

// Connections count the connections of clients.
type Connections struct {
	Open    int   // now
	Limit   int   // how many may be open at once
	Refused int64 // so far, because as many as Limit were open, or memory was used up
	// FailedHeaders and FailedHandshakes are those that ended, so far, for a PROXY
	// protocol header or a TLS handshake.
	FailedHeaders, FailedHandshakes int64
}

// routes yields every route of a table, the global default included.
func routes(t *router.Table) iter.Seq[*router.Route] {
	return func(yield func(*router.Route) bool) {
		for _, h := range t.Hosts() {
			for _, r := range h.Routes {
				if !yield(r) {
					return
				}
			}
			if h.Default != nil && !yield(h.Default) {
				return
			}
		}
		if r := t.Global(); r != nil {
			yield(r)
		}
	}
}

var (
	generationDesc  = describe("portico_table_generation", "Generation of the served table; 0 before the first.")
	publishedDesc   = describe("portico_table_published_timestamp_seconds", "When the served table was published.")
	hostsDesc       = describe("portico_table_hosts", "Hosts in the served table.")
	routesDesc      = describe("portico_table_routes", "Routes in the served table.")
	endpointsDesc   = describe("portico_endpoints", "Endpoints of all pools, by state.", "state")
	poolsDesc       = describe("portico_pools", "Pools, by whether traffic can go anywhere.", "state")
	certificateDesc = describe("portico_certificate_expiry_timestamp_seconds", "When the certificate served for a host ends. The default certificate is under an empty host, and under no other.", "host")
	notBeforeDesc   = describe("portico_certificate_not_before_timestamp_seconds", "When the certificate served for a host began; the same hosts as the expiry.", "host")
	renewalDesc     = describe("portico_certificate_renewal_timestamp_seconds", "When the certificate that Portico gets for a host is to be renewed; in the past: renewal is late, or fails.", "host")
	entriesDesc     = describe("portico_certificate_entries", "Entries of spec.tls that ask for a certificate, by issuer and state.", "issuer", "state")
	problemsDesc    = describe("portico_problems", "Problems with objects, by reason.", "reason")
	ejectedDesc     = describe("portico_endpoints_ejected", "Endpoints that are out of the balance for their failures.")
	ejectionsDesc   = describe("portico_endpoint_ejections_total", "Times that an endpoint was taken out of the balance for its failures.")
	retriesDesc     = describe("portico_backend_retries_total", "Requests that a backend had already and that were, or for want of budget were not, sent again.", "result")
	waitedDesc      = describe("portico_backend_waits_total", "Requests that found an endpoint with as many in flight as may be, and waited or were refused.", "result")
	connectionsDesc = describe("portico_connections", "Connections of clients that are open.")
	limitDesc       = describe("portico_connections_limit", "Connections of clients that may be open at once: --max-connections.")
	tooManyDesc     = describe("portico_refused_connections_total", "Connections of clients that were closed at once, because as many as may be were open, or the memory limit was all but used up.")
	failedDesc      = describe("portico_failed_connections_total", "Connections of clients that ended before their first request, because of a PROXY protocol header or a TLS handshake that failed.", "stage")
	degradedDesc    = describe("portico_degraded", "1 for a part that is waited for or degraded, such as an apiserver that does not answer; /readyz?verbose says why.", "check")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// stateCollector reads the published state when it is scraped, so that nothing
// has to be kept in step.
type stateCollector struct{ sources Sources }

// Describe implements prometheus.Collector.
func (*stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{generationDesc, publishedDesc, hostsDesc, routesDesc, endpointsDesc, poolsDesc, certificateDesc, notBeforeDesc, renewalDesc, entriesDesc, problemsDesc, ejectedDesc, ejectionsDesc, retriesDesc, waitedDesc, connectionsDesc, limitDesc, tooManyDesc, failedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	c.table(gauge)
	c.endpoints(gauge)
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	c.backends(gauge, counter)
	c.connections(gauge, counter)
	for _, served := range c.certificates() {
		gauge(certificateDesc, float64(served.Leaf.NotAfter.Unix()), served.Host)
		gauge(notBeforeDesc, float64(served.Leaf.NotBefore.Unix()), served.Host)
	}
	c.managed(gauge)
	reasons := make(map[string]int)
	for _, p := range c.sources.Publisher.Problems() {
		reasons[string(p.Reason)]++
	}
	for reason, n := range reasons {
		gauge(problemsDesc, float64(n), reason)
	}
}

type (
	gaugeFunc   func(d *prometheus.Desc, v float64, labels ...string)
	counterFunc func(d *prometheus.Desc, v int64, labels ...string)
)

func (c *stateCollector) table(gauge gaugeFunc) {
	snap := c.sources.Publisher.Snapshot()
	if snap == nil {
		gauge(generationDesc, 0)
		return
	}
	count := 0
	for range routes(snap.Table) {
		count++
	}
	gauge(generationDesc, float64(snap.Generation))
	gauge(publishedDesc, float64(snap.Published.UnixMilli())/1000)
	gauge(hostsDesc, float64(snap.Table.Len()))
	gauge(routesDesc, float64(count))
}

func (c *stateCollector) endpoints(gauge gaugeFunc) {
	states := map[string]int{stateReady: 0, stateTerminating: 0, stateUnready: 0}
	pools := map[bool]int{}
	for _, pool := range c.sources.Registry.Pools() {
		for _, e := range pool.State().Endpoints {
			states[endpointState(e)]++
		}
		pools[pool.Usable() > 0]++
	}
	for state, n := range states {
		gauge(endpointsDesc, float64(n), state)
	}
	gauge(poolsDesc, float64(pools[true]), "usable")
	gauge(poolsDesc, float64(pools[false]), "empty")
}

// The states of endpoints.
const (
	stateReady       = "ready"
	stateTerminating = "terminating" // still serving
	stateUnready     = "unready"
)

func endpointState(e upstream.Endpoint) string {
	switch {
	case e.Ready:
		return stateReady
	case e.Serving && e.Terminating:
		return stateTerminating
	}
	return stateUnready
}

// backends shows what failing and crowded endpoints lead to.
func (c *stateCollector) backends(gauge gaugeFunc, counter counterFunc) {
	ejected := 0
	for _, pool := range c.sources.Registry.Pools() {
		ejected += pool.Ejected()
	}
	gauge(ejectedDesc, float64(ejected))
	s := c.sources.Registry.Stats()
	counter(ejectionsDesc, s.Ejections)
	counter(retriesDesc, s.Retries, "sent")
	counter(retriesDesc, s.RetriesDenied, "denied")
	counter(waitedDesc, s.Waited, "waited")
	counter(waitedDesc, s.Overloaded, "refused")
}

// connections shows how near to their limit clients are.
func (c *stateCollector) connections(gauge gaugeFunc, counter counterFunc) {
	if c.sources.Connections == nil {
		return
	}
	n := c.sources.Connections()
	gauge(connectionsDesc, float64(n.Open))
	gauge(limitDesc, float64(n.Limit))
	counter(tooManyDesc, n.Refused)
	counter(failedDesc, n.FailedHeaders, "proxy_protocol")
	counter(failedDesc, n.FailedHandshakes, "tls_handshake")
}

// managed shows how the certificates that are asked for are getting on.
func (c *stateCollector) managed(gauge gaugeFunc) {
	if c.sources.Managed == nil {
		return
	}
	now, list := time.Now(), c.sources.Managed()
	type series struct{ issuer, state string }
	entries, renewals := make(map[series]int), make(map[string]time.Time)
	for _, m := range list {
		entries[series{m.Issuer, strings.ReplaceAll(m.State(now), " ", "_")}]++
		for _, host := range m.Names {
			if last, ok := renewals[host]; !m.Renewal.IsZero() && (ok && m.Renewal.Before(last) || !ok && len(renewals) < maxCertificates) {
				renewals[host] = m.Renewal
			}
		}
	}
	for s, n := range entries {
		gauge(entriesDesc, float64(n), s.issuer, s.state)
	}
	for host, at := range renewals {
		gauge(renewalDesc, float64(at.Unix()), host)
	}
}

// certificates returns what is served, those that end first first. Hosts that get
// the default certificate are left out: theirs would pass for one of their own.
func (c *stateCollector) certificates() []certstore.Served {
	list := slices.DeleteFunc(c.sources.Certs.List(), func(s certstore.Served) bool { return s.Host != "" && s.Why != "" })
	if len(list) > maxCertificates {
		slices.SortStableFunc(list, func(a, b certstore.Served) int {
			return cmp.Compare(a.Leaf.NotAfter.Unix(), b.Leaf.NotAfter.Unix())
		})
		list = list[:maxCertificates]
	}
	return list
}

// checksCollector shows the checks of readiness.
type checksCollector struct{ checks Checks }

// Describe implements prometheus.Collector.
func (*checksCollector) Describe(ch chan<- *prometheus.Desc) { ch <- degradedDesc }

// Collect implements prometheus.Collector.
func (c *checksCollector) Collect(ch chan<- prometheus.Metric) {
	for _, check := range c.checks() {
		v := 0.0
		if !check.Ready || check.Detail != "" {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(degradedDesc, prometheus.GaugeValue, v, check.Name)
	}
}
