package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/router/listen"
	"github.com/portico-ingress/portico/router/proxy"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// plane is everything behind the source of objects: what serve and controller
// have in common.
type plane struct {
	flags     *proxyFlags
	log       logr.Logger
	sockets   *sockets
	policy    upstream.DialPolicy
	registry  *upstream.Registry
	certs     *certstore.Store
	publisher *publish.Publisher
	metrics   *admin.Metrics
	accessLog *proxy.AccessLog // nil: off
	memory    *proxy.MemoryGuard
	engine    *proxy.Engine
	server    *listen.Server
	drain     *drainState
	tokens    *acme.Tokens // nil: no challenges are answered
	// managed and await are set before run, or stay nil: what certificates
	// are shown on the pages, and what is waited for after the first table.
	managed func() []admin.ManagedCertificate
	await   func(context.Context)
}

// accessLogLines is how many lines of the access log may wait for a slow
// reader of standard output.
const accessLogLines = 8192

// newPlane opens the sockets and builds the parts behind them. loopback allows
// backends on loopback addresses. It changes o and r: the port to redirect to and
// the addresses that must never be a backend are known only now.
func newPlane(flags *proxyFlags, o *proxyOptions, r *routing, loopback bool, accessLog io.Writer, log logr.Logger) (*plane, error) {
	p := &plane{flags: flags, log: log, metrics: admin.NewMetrics(), drain: newDrainState(), tokens: o.tokens}
	var err error
	if p.sockets, err = openSockets(flags); err != nil {
		return nil, err
	}
	if o.redirectPort == 0 && p.sockets.https != nil {
		o.redirectPort = listenPort(p.sockets.https)
	}
	if p.policy, err = dialPolicy(p.sockets.addrs(), loopback); err != nil {
		return nil, err
	}
	if p.certs, err = certstore.New(certstore.Options{}); err != nil {
		return nil, err
	}
	p.certs.SetDefault(r.defaultTLS)
	p.registry = upstream.NewRegistry(flags.Limits.upstream(upstream.Options{
		Policy: p.policy, Timeouts: flags.Upstream, RequireVerification: r.translate.RequireVerification,
	}))
	loadBallast()
	p.memory = proxy.NewMemoryGuard(flags.Limits.ShedMemory)
	p.publisher = publish.New(publish.Options{
		Router: r.router, Registry: p.registry, Certs: p.certs, Log: log.WithName("publish"), OnPublish: p.onPublish,
	})
	observers := proxy.Observers{p.metrics}
	if flags.AccessLog {
		p.accessLog = proxy.NewAccessLog(accessLog, accessFormats[flags.AccessFormat], accessLogLines)
		observers = append(observers, p.accessLog)
	}
	engine := proxy.Options{
		Snapshots: p.publisher, Observer: observers, Log: log.WithName("proxy"),
		TrustedProxies: o.trusted, AllowUnderscores: flags.AllowUnderscores, HTTPSPort: o.redirectPort,
		Timeouts: flags.Timeouts, Draining: p.drain.draining, Overloaded: p.memory.Overloaded,
	}
	if p.tokens != nil {
		engine.Challenges = p.tokens
	}
	p.engine = proxy.New(flags.Limits.proxy(engine))
	server, err := flags.Limits.listen(p.listenOptions(o))
	if err != nil {
		return nil, err
	}
	p.server = listen.New(server)
	log.V(1).Info("listening", "addresses", p.sockets.addrs())
	r.translate.CheckAddr = p.policy.Check
	return p, nil
}

// onPublish counts every table, and tells of the first: from now on requests
// are routed.
func (p *plane) onPublish(s *publish.Snapshot, stats publish.Stats) {
	p.metrics.Published(s, stats)
	if s.Generation == 1 {
		p.log.Info("serving", "hosts", s.Table.Len(), "pools", len(s.Pools))
	}
}

// dialPolicy refuses our own listeners as backends, whichever address of this
// host they are reached by.
func dialPolicy(listeners []netip.AddrPort, loopback bool) (upstream.DialPolicy, error) {
	local, err := upstream.LocalAddrs()
	return upstream.DialPolicy{AllowLoopback: loopback, Listeners: listeners, Local: local}, err
}

func (p *plane) listenOptions(o *proxyOptions) listen.Options {
	opts := listen.Options{
		Handler: p.engine, ProxyProtocolFrom: o.proxyProtocolFrom, HandshakeTimeout: p.flags.HandshakeTimeout,
		Full: p.memory.Full, Draining: p.drain.draining, Log: p.log.WithName("listen"),
	}
	if p.sockets.http != nil {
		opts.Listeners = append(opts.Listeners, listen.Listener{Socket: p.sockets.http})
	}
	if p.sockets.https != nil {
		config := p.certs.ServerConfig(certstore.DefaultPolicy)
		if p.tokens != nil {
			config.GetConfigForClient = p.tokens.ServerConfig
		}
		opts.Listeners = append(opts.Listeners, listen.Listener{Socket: p.sockets.https, TLS: &listen.TLS{
			Config: config, Policy: certstore.DefaultPolicy, Covers: p.covers,
		}})
	}
	return opts
}

// covers tells a connection which hosts its certificate is valid for.
func (p *plane) covers(serverName string) (string, func(string) bool) {
	name := certstore.ServerName(serverName)
	return name, p.certs.Select(name).Certificate.Covers
}

func (p *plane) sources() admin.Sources {
	s := admin.Sources{Publisher: p.publisher, Registry: p.registry, Certs: p.certs, Managed: p.managed,
		Connections: func() admin.Connections { return admin.Connections(p.server.Stats()) }}
	if p.accessLog != nil {
		s.AccessLogDrops = p.accessLog.Dropped
	}
	return s
}

// runnable is a part that works until its context ends.
type runnable interface{ Start(context.Context) error }

// run serves until ctx ends, then drains: /readyz says so, connections are
// still accepted for --drain-delay, what is in flight gets --drain-timeout to
// finish, and only then do the parts behind it stop. checks are the source's
// conditions of readiness.
func (p *plane) run(ctx context.Context, source runnable, checks admin.Checks) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, work := errgroup.WithContext(work)
	start := func(r runnable) { group.Go(func() error { return r.Start(work) }) }
	start(p.publisher)
	start(p.engine)
	start(p.memory)
	for _, s := range p.adminServers(checks) {
		start(s)
	}
	start(source)
	group.Go(func() error { announceUnready(work, checks, p.log); return nil })
	flushed := p.startAccessLog(ctx)
	group.Go(func() error {
		p.awaitTable(work)
		if p.await != nil {
			p.await(work)
		}
		return p.server.Serve(work)
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
			p.shutDown(work)
		case <-work.Done(): // a part failed; group.Wait has its error
		}
		stop()
		return nil
	})
	err := group.Wait()
	flushed()
	p.registry.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// awaitTable waits for the first table. Until then connections wait in the
// queues of the sockets: a container that was started again gets requests
// before its readiness is asked for, and would answer them with 503 and the
// default certificate.
func (p *plane) awaitTable(ctx context.Context) {
	for {
		changed := p.publisher.Changed()
		if p.publisher.Snapshot() != nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// startAccessLog keeps the log running until the function that it returns is
// called, after the last request.
func (p *plane) startAccessLog(ctx context.Context) (flush func()) {
	if p.accessLog == nil {
		return func() {}
	}
	logging, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.accessLog.Start(logging); err != nil {
			p.log.Error(err, "the access log ended")
		}
	}()
	return func() { stop(); <-done }
}

func (p *plane) adminServers(source admin.Checks) []runnable {
	var out []runnable
	checks := func() []admin.Check { return append(source(), p.drain.checks()...) }
	p.metrics.Watch(p.sources())
	p.metrics.WatchChecks(checks)
	if ln := p.sockets.admin; ln != nil {
		out = append(out, admin.NewServer(ln, admin.New(p.metrics, checks), 30*time.Second, p.log.WithName("admin")))
	}
	if ln := p.sockets.debug; ln != nil {
		out = append(out, admin.NewServer(ln, admin.NewDebug(p.sources()), 2*time.Minute, p.log.WithName("debug")))
	}
	return out
}

func (p *plane) shutDown(ctx context.Context) {
	p.log.Info("shutting down: still accepting", "for", p.flags.DrainDelay.String())
	p.drain.begin()
	select {
	case <-time.After(p.flags.DrainDelay):
	case <-ctx.Done():
	}
	p.log.Info("draining", "connections", p.server.Stats().Open, "atMost", p.flags.DrainTimeout.String())
	ctx, cancel := context.WithTimeout(ctx, p.flags.DrainTimeout)
	defer cancel()
	if cut := p.server.Drain(ctx); cut > 0 {
		p.log.Info("connections were cut: --drain-timeout was over before what they carried", "connections", cut)
		return
	}
	p.log.Info("drained: nothing was cut")
}

// drainState is how far a shutdown has come.
type drainState struct {
	leaving  chan struct{} // closed when the shutdown begins
	draining chan struct{} // closed by the server when it stops accepting
}

func newDrainState() *drainState {
	return &drainState{leaving: make(chan struct{}), draining: make(chan struct{})}
}

func (d *drainState) begin() { close(d.leaving) }

// checks tell of a shutdown in two steps: from the first on, nobody should begin
// to send requests here; until the second, those who do are served. A load
// balancer that asks itself wants the first. A kubelet must only ask for the
// second: Kubernetes knows of the first without us, and it is to the pods that
// are still ready that a node sends what comes for pods that are leaving
// (KEP-1669).
func (d *drainState) checks() []admin.Check {
	return []admin.Check{step("shutdown", d.leaving, "shutting down"), step("listeners", d.draining, "closed")}
}

func step(name string, taken <-chan struct{}, detail string) admin.Check {
	select {
	case <-taken:
		return admin.Check{Name: name, Detail: detail}
	default:
		return admin.Check{Name: name, Ready: true}
	}
}

// sockets are what the process listens on; nil where a flag is empty.
type sockets struct{ http, https, admin, debug net.Listener }

func openSockets(f *proxyFlags) (*sockets, error) {
	s := &sockets{}
	var errs []error
	for _, x := range []struct {
		flag, addr string
		to         *net.Listener
	}{
		{"http-addr", f.HTTPAddr, &s.http}, {"https-addr", f.HTTPSAddr, &s.https},
		{"admin-addr", f.AdminAddr, &s.admin}, {"debug-addr", f.DebugAddr, &s.debug},
	} {
		if x.addr == "" {
			continue
		}
		ln, err := listen.Listen(x.addr)
		if err != nil {
			errs = append(errs, program.FlagError(x.flag, err))
			continue
		}
		*x.to = ln
	}
	return s, errors.Join(errs...)
}

func (s *sockets) addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, ln := range []net.Listener{s.http, s.https, s.admin, s.debug} {
		if ln != nil {
			out = append(out, listen.Addr(ln))
		}
	}
	return out
}
