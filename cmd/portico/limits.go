package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/router/listen"
	"github.com/portico-ingress/portico/router/proxy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/wire"
)

// limitFlags bound what one request, one client or one backend may cost.
type limitFlags struct {
	Connections  int
	HeaderBytes  int
	HeaderFields int
	URIBytes     int
	MinBodyRate  int
	Streams      int
	Resets       int
	Control      int
	InFlight     int
	Pending      int
	Attempts     int
	RetryPercent int
	EjectAfter   int
	EjectPercent int
	EjectTime    time.Duration
	ShedMemory   int
}

// each yields every number with its flag, default, bounds and usage.
func (f *limitFlags) each(yield func(field *int, name string, value, from, to int, usage string)) {
	d := wire.DefaultLimits
	yield(&f.Connections, "max-connections", 0, 0, 1<<24, "connections of clients open at once, over all listeners; beyond: closed at once. 0: half of what the limit of file descriptors allows")
	yield(&f.HeaderBytes, "max-header-bytes", d.Head, 1<<10, 1<<20, "bytes of a request head, and of a backend's response head; beyond: 431")
	yield(&f.HeaderFields, "max-header-fields", d.Fields, 8, 10_000, "fields of a head; beyond: 431")
	yield(&f.URIBytes, "max-uri-bytes", d.Target, 256, 1<<20, "bytes of a request target; beyond: 414")
	yield(&f.MinBodyRate, "client-body-min-rate", 240, 1, 1<<30, "bytes a second that a request body must arrive with on average; below: 408")
	yield(&f.Streams, "http2-max-streams", 250, 1, 10_000, "requests under way on one HTTP/2 connection of a client")
	yield(&f.Resets, "http2-max-resets", 200, 1, 100_000, "requests of one HTTP/2 connection that may end in vain in 30 s; beyond: it is ended")
	yield(&f.Control, "http2-max-control-frames", 300, 10, 1_000_000, "frames that carry nothing (SETTINGS, PING and others) on one HTTP/2 connection in 30 s, besides those that requests make up for; beyond: it is ended")
	yield(&f.InFlight, "backend-max-in-flight", 1024, 1, 1<<20, "requests under way at one endpoint; others wait")
	yield(&f.Pending, "backend-max-pending", 1024, 0, 1<<20, "requests that wait for one endpoint, for --backend-connect-timeout; beyond: 503")
	yield(&f.Attempts, "backend-attempts", 3, 1, 8, "endpoints tried for a request that was not sent, or does no harm sent twice")
	yield(&f.RetryPercent, "backend-retry-percent", 20, 0, 100, "percent of a Service's requests that may be sent again after a backend had them, besides the first ten")
	yield(&f.EjectAfter, "backend-eject-after", 5, 0, 1<<20, "failures in a row that take an endpoint out of the balance; 0: never")
	yield(&f.EjectPercent, "backend-eject-percent", 50, 1, 99, "percent of a Service's endpoints that may be out of the balance")
	yield(&f.ShedMemory, "shed-memory-percent", 90, 0, 100, "percent of GOMEMLIMIT in use from which on requests are answered 503; 0: never")
}

func (f *limitFlags) register(fs *pflag.FlagSet) {
	f.each(func(field *int, name string, value, _, _ int, usage string) { fs.IntVar(field, name, value, usage) })
	fs.DurationVar(&f.EjectTime, "backend-eject-time", 30*time.Second, "how long an endpoint is out of the balance the first time")
}

func (f *limitFlags) validate() (errs []error) {
	f.each(func(field *int, name string, _, from, to int, _ string) {
		if *field < from || *field > to {
			errs = append(errs, program.FlagError(name, fmt.Errorf("%d is not from %d to %d", *field, from, to)))
		}
	})
	if f.EjectTime <= 0 {
		errs = append(errs, program.FlagError("backend-eject-time", fmt.Errorf("%s is no time", f.EjectTime)))
	}
	return errs
}

func (f *limitFlags) wire() wire.Limits {
	l := wire.DefaultLimits
	l.Head, l.Fields, l.Target = f.HeaderBytes, f.HeaderFields, f.URIBytes
	return l
}

// orNever is a number of which 0 stands for never, where Options have a
// negative one for that.
func orNever(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// listen has no more connections than there are descriptors for, unless the flag
// says otherwise.
func (f *limitFlags) listen(o listen.Options) (listen.Options, error) {
	room, err := listen.Room()
	if o.MaxConns = f.Connections; o.MaxConns == 0 {
		o.MaxConns = room
	}
	if err == nil && o.MaxConns > room {
		o.Log.Info("--max-connections is more than the limit of file descriptors leaves room for: raise that limit (ulimit -n), or backends may not be reached",
			"limit", o.MaxConns, "room", room)
	}
	return o, err
}

func (f *limitFlags) upstream(o upstream.Options) upstream.Options {
	o.Limits, o.MaxInFlight, o.MaxPending, o.Attempts = f.wire(), f.InFlight, orNever(f.Pending), f.Attempts
	o.RetryPercent, o.EjectAfter, o.EjectPercent, o.EjectTime = orNever(f.RetryPercent), orNever(f.EjectAfter), f.EjectPercent, f.EjectTime
	return o
}

func (f *limitFlags) proxy(o proxy.Options) proxy.Options {
	o.Limits, o.Streams, o.Resets, o.ControlFrames = f.wire(), f.Streams, f.Resets, f.Control
	o.Timeouts.MinBodyRate = int64(f.MinBodyRate)
	return o
}
