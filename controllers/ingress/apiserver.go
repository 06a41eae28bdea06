package ingress

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// Apiserver notices that the apiserver does not answer. Then everything goes on
// as it was last known, so nothing but this tells an operator why changes have
// no effect. Safe for concurrent use.
type Apiserver struct {
	log logr.Logger

	mu    sync.Mutex // protects the following
	since time.Time  // when it was first found silent; zero: it answers
	why   string
}

// NewApiserver logs to log when the apiserver falls silent, and when it is back.
func NewApiserver(log logr.Logger) *Apiserver { return &Apiserver{log: log} }

// Wrap looks at what becomes of every request to the apiserver. It is a
// rest.Config's WrapTransport. The election asks every few seconds, so that
// silence is noticed although watches are open.
func (a *Apiserver) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		switch {
		case errors.Is(err, context.Canceled): // says nothing of the apiserver
		case err != nil:
			a.silent(err.Error())
		case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout:
			a.silent(resp.Status) // of a load balancer before it, or while it starts
		default:
			a.answers()
		}
		return resp, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (a *Apiserver) silent(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() {
		a.since = time.Now()
		a.log.Info("the apiserver does not answer: what was last known keeps being served, changes wait", "reason", why)
	}
	a.why = why
}

func (a *Apiserver) answers() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.since.IsZero() {
		a.log.Info("the apiserver answers again", "after", time.Since(a.since).Round(time.Second).String())
	}
	a.since, a.why = time.Time{}, ""
}

// check is always ready: a replica without an apiserver serves well.
func (a *Apiserver) check() Check {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := Check{Name: "apiserver", Ready: true}
	if !a.since.IsZero() {
		c.Detail = "has not answered since " + a.since.UTC().Format(time.RFC3339) + ", what was last known is served: " + a.why
	}
	return c
}
