package acme

import "github.com/prometheus/client_golang/prometheus"

// Metrics count orders. A prometheus.Collector.
type Metrics struct {
	orders   *prometheus.CounterVec
	issues   *prometheus.CounterVec
	failures *prometheus.CounterVec
}

// NewMetrics returns Metrics that are registered nowhere.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return &Metrics{
		orders:   counter("portico_acme_orders_total", "Orders placed at an ACME server.", "issuer"),
		issues:   counter("portico_acme_certificates_total", "Certificates issued.", "issuer"),
		failures: counter("portico_acme_failures_total", "Attempts to get a certificate that failed, by reason.", "issuer", "reason"),
	}
}

func (m *Metrics) ordered(issuer string) { m.orders.WithLabelValues(issuer).Inc() }
func (m *Metrics) issued(issuer string)  { m.issues.WithLabelValues(issuer).Inc() }
func (m *Metrics) failed(issuer string, r Reason) {
	m.failures.WithLabelValues(issuer, string(r)).Inc()
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.orders.Describe(ch)
	m.issues.Describe(ch)
	m.failures.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.orders.Collect(ch)
	m.issues.Collect(ch)
	m.failures.Collect(ch)
}
