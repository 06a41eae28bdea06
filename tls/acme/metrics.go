package acme

import "github.com/prometheus/client_golang/prometheus"

// Metrics count attempts to get certificates. A prometheus.Collector.
type Metrics struct {
	attempts *prometheus.CounterVec
	issues   *prometheus.CounterVec
	failures *prometheus.CounterVec
}

// NewMetrics returns Metrics that are registered nowhere.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return &Metrics{
		attempts: counter("portico_acme_attempts_total", "Attempts to get a certificate from an issuer, whether or not it could be reached.", "issuer"),
		issues:   counter("portico_acme_certificates_total", "Certificates issued.", "issuer"),
		failures: counter("portico_acme_failures_total", "Attempts to get a certificate that failed, by reason.", "issuer", "reason"),
	}
}

func (m *Metrics) tried(issuer string)  { m.attempts.WithLabelValues(issuer).Inc() }
func (m *Metrics) issued(issuer string) { m.issues.WithLabelValues(issuer).Inc() }
func (m *Metrics) failed(issuer string, r Reason) {
	m.failures.WithLabelValues(issuer, string(r)).Inc()
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.attempts.Describe(ch)
	m.issues.Describe(ch)
	m.failures.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.attempts.Collect(ch)
	m.issues.Collect(ch)
	m.failures.Collect(ch)
}
