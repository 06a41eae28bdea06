package node

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are those of kube-proxy, by the same names and with the same labels, so
// that dashboards and load tests read them. Both families are programmed at once:
// what tells of programming is the same for both. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	families []bool // those that are programmed: whether it is IPv6

	sync, full, partial, programming byFamily[prometheus.Observer]
	lastSync, lastQueued             byFamily[prometheus.Gauge]
	endpointsPending                 prometheus.Gauge
	servicesPending                  prometheus.Gauge
	endpointsTotal, servicesTotal    prometheus.Counter
	noLocal                          *prometheus.GaugeVec
	failures                         byFamily[prometheus.Counter]
	healthz, livez                   *prometheus.CounterVec
	sweep                            byFamily[prometheus.Observer]
	deleted                          byFamily[prometheus.Counter]
}

// byFamily has what one metric is of each family that is programmed, by whether
// it is IPv6.
type byFamily[T any] map[bool]T

// familyName is the value of the label ip_family.
func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

const subsystem = "kubeproxy"

// NewMetrics returns Metrics with a registry of their own, for the families that
// are programmed.
func NewMetrics(ipv4, ipv6 bool) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	if ipv4 {
		m.families = append(m.families, false)
	}
	if ipv6 {
		m.families = append(m.families, true)
	}
	// kube-proxy begins at a millisecond, where nearly all of ours end.
	syncs := prometheus.ExponentialBuckets(0.000125, 2, 18)
	m.sync = m.histogram("sync_proxy_rules_duration_seconds", "Time to program what changed, or everything", syncs)
	m.full = m.histogram("sync_full_proxy_rules_duration_seconds", "Time to program everything", syncs)
	m.partial = m.histogram("sync_partial_proxy_rules_duration_seconds", "Time to program what changed", syncs)
	m.programming = m.histogram("network_programming_duration_seconds",
		"Time from the change of a pod or Service to its being programmed (SLI of Kubernetes)", programmingBuckets())
	m.lastSync = m.gauges("sync_proxy_rules_last_timestamp_seconds", "When something was programmed last")
	m.lastQueued = m.gauges("sync_proxy_rules_last_queued_timestamp_seconds", "When a change arrived last")
	m.endpointsPending = m.gauge("sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that are not programmed yet")
	m.servicesPending = m.gauge("sync_proxy_rules_service_changes_pending", "Changes of Services that are not programmed yet")
	m.endpointsTotal = m.counter("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices")
	m.servicesTotal = m.counter("sync_proxy_rules_service_changes_total", "Changes of Services")
	m.failures = m.counters("sync_proxy_rules_nftables_sync_failures_total", "Failed attempts to program")
	m.counters("sync_proxy_rules_nftables_cleanup_failures_total", "Failed attempts to remove what is not used; there is nothing to remove")
	m.sweep = m.histogram("conntrack_reconciler_sync_duration_seconds", "Time to forget UDP flows to endpoints that are gone", syncs)
	m.deleted = m.counters("conntrack_reconciler_deleted_entries_total", "UDP flows that were forgotten")
	m.noLocal = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Subsystem: subsystem, Name: "sync_proxy_rules_no_local_endpoints_total",
		Help: "Service ports with a traffic policy Local and endpoints, none of which is on this node",
	}, []string{"traffic_policy", "ip_family"})
	m.healthz = prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: subsystem, Name: "proxy_healthz_total", Help: "Answers of /healthz"}, []string{"code"})
	m.livez = prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: subsystem, Name: "proxy_livez_total", Help: "Answers of /livez"}, []string{"code"})
	m.registry.MustRegister(m.noLocal, m.healthz, m.livez, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// programmingBuckets are kube-proxy's, and finer ones below.
func programmingBuckets() []float64 {
	out := []float64{0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5}
	out = append(out, prometheus.LinearBuckets(1, 1, 59)...)
	out = append(out, prometheus.LinearBuckets(60, 5, 12)...)
	return append(out, prometheus.LinearBuckets(120, 30, 7)...)
}

func (m *Metrics) histogram(name, help string, buckets []float64) byFamily[prometheus.Observer] {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets}, []string{"ip_family"})
	return split(m, v, v.WithLabelValues)
}

func (m *Metrics) gauges(name, help string) byFamily[prometheus.Gauge] {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: subsystem, Name: name, Help: help}, []string{"ip_family"})
	return split(m, v, v.WithLabelValues)
}

func (m *Metrics) counters(name, help string) byFamily[prometheus.Counter] {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: help}, []string{"ip_family"})
	return split(m, v, v.WithLabelValues)
}

// split registers a metric and takes out what it is of each family.
func split[T any](m *Metrics, c prometheus.Collector, of func(...string) T) byFamily[T] {
	m.registry.MustRegister(c)
	out := byFamily[T]{}
	for _, ipv6 := range m.families {
		out[ipv6] = of(familyName(ipv6))
	}
	return out
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: subsystem, Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) queued() {
	for _, g := range m.lastQueued {
		g.SetToCurrentTime()
	}
}

func (m *Metrics) failed() {
	for _, c := range m.failures {
		c.Inc()
	}
}

// replaced and applied note how long programming took.
func (m *Metrics) replaced(d time.Duration) { observe(d, m.full, m.sync) }
func (m *Metrics) applied(d time.Duration)  { observe(d, m.partial, m.sync) }

// observe notes a duration in all families.
func observe(d time.Duration, histograms ...byFamily[prometheus.Observer]) {
	for _, h := range histograms {
		for _, o := range h {
			o.Observe(d.Seconds())
		}
	}
}

// pending shows what was taken and is not programmed yet.
func (m *Metrics) pending(p *picture) {
	m.endpointsPending.Set(float64(p.endpointChanges))
	m.servicesPending.Set(float64(p.serviceChanges))
}

// committed notes that everything that the picture shows is programmed.
func (m *Metrics) committed(p *picture, now time.Time) {
	for _, g := range m.lastSync {
		g.Set(float64(now.UnixNano()) / 1e9)
	}
	m.endpointsTotal.Add(float64(p.endpointChanges))
	m.servicesTotal.Add(float64(p.serviceChanges))
	for _, t := range p.triggers {
		if o := m.programming[t.ipv6]; o != nil {
			o.Observe(now.Sub(t.at).Seconds())
		}
	}
}

func (m *Metrics) noLocalEndpoints(l *localEndpoints) {
	for _, ipv6 := range m.families {
		n := l.count[ipv6]
		m.noLocal.WithLabelValues("internal", familyName(ipv6)).Set(float64(n.internal))
		m.noLocal.WithLabelValues("external", familyName(ipv6)).Set(float64(n.external))
	}
}

func (m *Metrics) swept(ipv6 bool, took time.Duration, deleted int) {
	if o := m.sweep[ipv6]; o != nil {
		o.Observe(took.Seconds())
		m.deleted[ipv6].Add(float64(deleted))
	}
}
