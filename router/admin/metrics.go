package admin

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/view"
)

// classes are the values of the label code. A class for each hundred bounds
// the number of series, whatever backends answer.
var classes = [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

// Metrics counts requests and publishes, and shows the published state to
// Prometheus. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	refused   *prometheus.CounterVec
	latency   prometheus.Histogram
	compile   prometheus.Histogram

	mu     sync.RWMutex // protects the following
	routes map[seriesKey]routeSeries
	// reasons are the series of refused by reason.
	reasons   map[string]prometheus.Counter
	publisher *publish.Publisher // nil before Watch
	pruned    *publish.Snapshot  // the one that routes was last pruned by
}

type routeKey struct{ ingress, service string }

// seriesKey is a route and an index of classes.
type seriesKey struct {
	routeKey
	class int
}

// routeSeries are what one request counts in, resolved once so that counting
// allocates nothing.
type routeSeries struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// NewMetrics returns Metrics with a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portico_requests_total",
			Help: "Requests answered, by Ingress, Service and class of the status code. Without a route both names are empty.",
		}, []string{"ingress", "service", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "portico_request_duration_seconds",
			Help:    "Time from the first byte of a request to the last byte of its response, upgraded connections left out.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"ingress"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portico_refused_requests_total",
			Help: "Requests that Portico answered itself, or whose response did not reach its end, by reason.",
		}, []string{"reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "portico_publish_latency_seconds",
			Help:    "Time from the oldest change in a table to the table being served.",
			Buckets: prometheus.ExponentialBuckets(.0005, 2, 14),
		}),
		compile: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "portico_publish_compile_seconds",
			Help:    "Time spent compiling a table.",
			Buckets: prometheus.ExponentialBuckets(.0001, 2, 14),
		}),
		routes:  make(map[seriesKey]routeSeries),
		reasons: make(map[string]prometheus.Counter),
	}
	m.registry.MustRegister(m.requests, m.durations, m.refused, m.latency, m.compile,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4,
		Timeout:             20 * time.Second,
	})
	return m
}

// Watch adds the state of sources to what is shown. Call it once.
func (m *Metrics) Watch(s Sources) {
	m.mu.Lock()
	m.publisher = s.Publisher
	m.mu.Unlock()
	m.registry.MustRegister(&stateCollector{sources: s})
	if s.AccessLogDrops != nil {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "portico_access_log_dropped_total",
			Help: "Lines of the access log that were dropped because the log could not be written fast enough.",
		}, func() float64 { return float64(s.AccessLogDrops()) }))
	}
}

// WatchChecks adds the checks of readiness to what is shown. Call it once. The
// names of checks are unique.
func (m *Metrics) WatchChecks(c Checks) { m.registry.MustRegister(&checksCollector{checks: c}) }

// Register adds what others count to what is shown. Names are unique.
func (m *Metrics) Register(c prometheus.Collector) { m.registry.MustRegister(c) }

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.prune()
	m.handler.ServeHTTP(w, r)
}

// Published takes note of a publish; it is a publish.Options.OnPublish.
func (m *Metrics) Published(_ *publish.Snapshot, stats publish.Stats) {
	m.latency.Observe(stats.Latency.Seconds())
	m.compile.Observe(stats.Compile.Seconds())
}

// Observe counts one exchange. It allocates only for the first request of a
// route.
func (m *Metrics) Observe(r *view.Record) {
	series := m.series(seriesKey{routeKey{r.Ingress, r.Service}, class(r.Status)})
	series.requests.Inc()
	if !r.Upgraded {
		series.duration.Observe(r.Duration.Seconds())
	}
	if r.Reason != "" {
		m.reason(r.Reason).Inc()
	}
}

func class(status int) int {
	if c := status / 100; c > 0 && c < len(classes) {
		return c
	}
	return 0
}

func (m *Metrics) series(key seriesKey) routeSeries {
	m.mu.RLock()
	s, ok := m.routes[key]
	m.mu.RUnlock()
	if ok {
		return s
	}
	// The record's strings may be part of something that is reused.
	key.ingress, key.service = strings.Clone(key.ingress), strings.Clone(key.service)
	m.mu.Lock()
	defer m.mu.Unlock()
	s = routeSeries{
		requests: m.requests.WithLabelValues(key.ingress, key.service, classes[key.class]),
		duration: m.durations.WithLabelValues(key.ingress),
	}
	m.routes[key] = s
	return s
}

func (m *Metrics) reason(reason string) prometheus.Counter {
	m.mu.RLock()
	c := m.reasons[reason]
	m.mu.RUnlock()
	if c != nil {
		return c
	}
	reason = strings.Clone(reason)
	c = m.refused.WithLabelValues(reason)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reasons[reason] = c
	return c
}

// prune deletes the series of routes that the served table does not have any
// more. It runs before a scrape, so that requests and publishes need not care.
// A request that finishes later makes its series anew, until the next table.
func (m *Metrics) prune() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.publisher == nil {
		return
	}
	published := m.publisher.Snapshot()
	if published == nil || published == m.pruned {
		return
	}
	m.pruned = published
	served := routeKeys(published)
	ingresses := map[string]bool{"": true}
	for key := range served {
		ingresses[key.ingress] = true
	}
	for key := range m.routes {
		if _, ok := served[key.routeKey]; ok {
			continue
		}
		delete(m.routes, key)
		m.requests.DeleteLabelValues(key.ingress, key.service, classes[key.class])
		if !ingresses[key.ingress] {
			m.durations.DeleteLabelValues(key.ingress)
		}
	}
}

// routeKeys returns the routes of a table, and the key of requests without one.
func routeKeys(s *publish.Snapshot) map[routeKey]struct{} {
	keys := map[routeKey]struct{}{{}: {}}
	for r := range routes(s.Table) {
		keys[routeKey{r.Ingress, r.Service}] = struct{}{}
	}
	return keys
}
