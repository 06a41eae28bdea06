package node

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are those of kube-proxy, by the same names, so that dashboards and
// load tests read them. Both families are programmed at once, so only what
// differs between them has the label ip_family. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	sync, full, partial, programming prometheus.Histogram
	lastSync, lastQueued             prometheus.Gauge
	endpointsPending                 prometheus.Gauge
	servicesPending                  prometheus.Gauge
	endpointsTotal, servicesTotal    prometheus.Counter
	noLocal                          *prometheus.GaugeVec
	failures                         prometheus.Counter
	healthz, livez                   *prometheus.CounterVec
	sweep                            prometheus.Histogram
	deleted                          prometheus.Counter
}

const subsystem = "kubeproxy"

// NewMetrics returns Metrics with a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	// kube-proxy begins at a millisecond, where nearly all of ours end.
	syncs := prometheus.ExponentialBuckets(0.000125, 2, 18)
	m.sync = m.histogram("sync_proxy_rules_duration_seconds", "Time to program what changed, or everything", syncs)
	m.full = m.histogram("sync_full_proxy_rules_duration_seconds", "Time to program everything", syncs)
	m.partial = m.histogram("sync_partial_proxy_rules_duration_seconds", "Time to program what changed", syncs)
	m.programming = m.histogram("network_programming_duration_seconds",
		"Time from the change of a pod or Service to its being programmed (SLI of Kubernetes)", programmingBuckets())
	m.lastSync = m.gauge("sync_proxy_rules_last_timestamp_seconds", "When something was programmed last")
	m.lastQueued = m.gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a change arrived last")
	m.endpointsPending = m.gauge("sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that are not programmed yet")
	m.servicesPending = m.gauge("sync_proxy_rules_service_changes_pending", "Changes of Services that are not programmed yet")
	m.endpointsTotal = m.counter("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices")
	m.servicesTotal = m.counter("sync_proxy_rules_service_changes_total", "Changes of Services")
	m.failures = m.counter("sync_proxy_rules_nftables_sync_failures_total", "Failed attempts to program")
	m.counter("sync_proxy_rules_nftables_cleanup_failures_total", "Failed attempts to remove what is not used; there is nothing to remove")
	m.sweep = m.histogram("conntrack_reconciler_sync_duration_seconds", "Time to forget UDP flows to endpoints that are gone", syncs)
	m.deleted = m.counter("conntrack_reconciler_deleted_entries_total", "UDP flows that were forgotten")
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

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
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

func (m *Metrics) queued() { m.lastQueued.SetToCurrentTime() }
func (m *Metrics) failed() { m.failures.Inc() }

// replaced and applied note how long programming took.
func (m *Metrics) replaced(d time.Duration) {
	m.full.Observe(d.Seconds())
	m.sync.Observe(d.Seconds())
}

func (m *Metrics) applied(d time.Duration) {
	m.partial.Observe(d.Seconds())
	m.sync.Observe(d.Seconds())
}

// pending shows what was taken and is not programmed yet.
func (m *Metrics) pending(p *picture) {
	m.endpointsPending.Set(float64(p.endpointChanges))
	m.servicesPending.Set(float64(p.serviceChanges))
}

// committed notes that everything that the picture shows is programmed.
func (m *Metrics) committed(p *picture, now time.Time) {
	m.lastSync.Set(float64(now.UnixNano()) / 1e9)
	m.endpointsTotal.Add(float64(p.endpointChanges))
	m.servicesTotal.Add(float64(p.serviceChanges))
	for _, t := range p.triggers {
		m.programming.Observe(now.Sub(t).Seconds())
	}
}

func (m *Metrics) noLocalEndpoints(l localEndpoints) {
	var count [2][2]float64 // by family, then internal and external
	for k, missing := range l {
		family := 0
		if k.IPv6 {
			family = 1
		}
		if missing.internal {
			count[family][0]++
		}
		if missing.external {
			count[family][1]++
		}
	}
	for i, family := range []string{"IPv4", "IPv6"} {
		m.noLocal.WithLabelValues("internal", family).Set(count[i][0])
		m.noLocal.WithLabelValues("external", family).Set(count[i][1])
	}
}

func (m *Metrics) swept(took time.Duration, deleted int) {
	m.sweep.Observe(took.Seconds())
	m.deleted.Add(float64(deleted))
}
