package proxy

import "github.com/portico-ingress/portico/router/view"

// Observer is told of every exchange when it has ended, and of every request
// whose head was refused. It is called on the request's goroutine, so it must
// not wait; it must not keep the record. Safe for concurrent use.
type Observer interface {
	Observe(*view.Record)
}

// Observers is several observers as one.
type Observers []Observer

// Observe implements Observer.
func (os Observers) Observe(r *view.Record) {
	for _, o := range os {
		o.Observe(r)
	}
}
