package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/proxy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// routingFlags decide how objects become routes. serve, controller and explain
// share them, so that explain sees the table that the others serve.
type routingFlags struct {
	ControllerNames    []string
	WithoutClass       bool
	DefaultTLSSecret   string
	DefaultBackend     string
	HostOwnership      string
	CatchAllNamespaces []string
	ExternalNames      bool
	ClusterDomain      string
	RequireVerified    bool
}

func (f *routingFlags) register(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.ControllerNames, "controller-name", []string{translate.DefaultControllerName},
		"IngressClass spec.controller that is served; repeatable. Add k8s.io/ingress-nginx to serve an existing class nginx as it is")
	fs.BoolVar(&f.WithoutClass, "watch-without-class", false, "serve Ingresses that name no class")
	fs.StringVar(&f.DefaultTLSSecret, "default-tls-secret", "", "NAMESPACE/NAME of the Secret with the default certificate (default: self-signed)")
	fs.StringVar(&f.DefaultBackend, "default-backend-service", "", "NAMESPACE/NAME:PORT of the Service for requests that no Ingress takes (default: 404)")
	fs.StringVar(&f.HostOwnership, "host-ownership", "merge",
		`paths of other namespaces under a host: "merge" them and report it, or be "strict" and refuse them`)
	fs.StringSliceVar(&f.CatchAllNamespaces, "catch-all-namespaces", nil,
		"namespaces whose Ingresses may serve hosts that no rule names (default: all)")
	fs.BoolVar(&f.ExternalNames, "allow-external-names", false, "allow Services of type ExternalName as backends")
	fs.StringVar(&f.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.BoolVar(&f.RequireVerified, "require-backend-verification", false,
		"answer 503 rather than speak TLS to backends without verifying them against a CA (annotation portico.dev/proxy-ssl-secret)")
}

// routing is what routingFlags mean.
type routing struct {
	translate  translate.Options
	router     router.Options
	defaultTLS certstore.SecretRef
}

func (f *routingFlags) options() (*routing, error) {
	var errs []error
	fail := func(flag string, err error) { errs = append(errs, program.FlagError(flag, err)) }
	r := &routing{translate: translate.Options{
		ControllerNames: f.ControllerNames, WatchWithoutClass: f.WithoutClass,
		ExternalNames: f.ExternalNames, RequireVerification: f.RequireVerified,
	}}
	var err error
	if r.translate.ClusterDomain, err = view.CanonicalHost(f.ClusterDomain); err != nil {
		fail("cluster-domain", fmt.Errorf("%q is not a DNS domain", f.ClusterDomain))
	}
	if len(f.ControllerNames) == 0 || slices.Contains(f.ControllerNames, "") {
		fail("controller-name", errors.New("must not be empty"))
	}
	switch f.HostOwnership {
	case "merge":
	case "strict":
		r.router.StrictHosts = true
	default:
		fail("host-ownership", fmt.Errorf(`%q is neither "merge" nor "strict"`, f.HostOwnership))
	}
	if len(f.CatchAllNamespaces) > 0 {
		r.router.CatchAll = func(ns string) bool { return slices.Contains(f.CatchAllNamespaces, ns) }
	}
	if f.DefaultTLSSecret != "" {
		ns, name, err := namespacedName(f.DefaultTLSSecret)
		if err != nil {
			fail("default-tls-secret", err)
		}
		r.defaultTLS = certstore.SecretRef{Namespace: ns, Name: name}
	}
	if f.DefaultBackend != "" {
		b, err := parseBackend(f.DefaultBackend)
		if err != nil {
			fail("default-backend-service", err)
		}
		r.router.Default = &b
	}
	return r, errors.Join(errs...)
}

func namespacedName(s string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%q is not of the form NAMESPACE/NAME", s)
	}
	return namespace, name, nil
}

func parseBackend(s string) (router.Backend, error) {
	rest, port, ok := strings.Cut(s, ":")
	namespace, service, err := namespacedName(rest)
	if !ok || port == "" || err != nil {
		return router.Backend{}, fmt.Errorf("%q is not of the form NAMESPACE/NAME:PORT", s)
	}
	return router.Backend{Namespace: namespace, Service: service, Port: port}, nil
}

// proxyFlags configure listeners and engine.
type proxyFlags struct {
	HTTPAddr          string
	HTTPSAddr         string
	AdminAddr         string
	DebugAddr         string
	RedirectPort      int
	TrustedProxies    []string
	ProxyProtocolFrom []string
	AccessLog         bool
	AccessFormat      string
	AllowUnderscores  bool
	Log               program.LogFlags
	HandshakeTimeout  time.Duration
	DrainDelay        time.Duration
	DrainTimeout      time.Duration
	Timeouts          proxy.Timeouts
	Upstream          upstream.Timeouts
	Limits            limitFlags
}

// shortDrain is for people who press Ctrl-C.
const shortDrain = 3 * time.Second

// proxyDefaults are the defaults in which serve and controller differ.
type proxyDefaults struct {
	redirectPort int
	drainDelay   time.Duration
	drainTimeout time.Duration
	logFormat    string
}

func (f *proxyFlags) register(fs *pflag.FlagSet, d proxyDefaults) {
	fs.StringVar(&f.HTTPAddr, "http-addr", ":8080", "address for plaintext HTTP; empty: none")
	fs.StringVar(&f.HTTPSAddr, "https-addr", ":8443", "address for HTTPS; empty: none")
	fs.StringVar(&f.AdminAddr, "admin-addr", ":9090", "address for /healthz, /readyz and /metrics; empty: none")
	fs.StringVar(&f.DebugAddr, "debug-addr", "127.0.0.1:9091", "address for /table, /problems, /certificates and pprof; empty: none")
	fs.IntVar(&f.RedirectPort, "https-redirect-port", d.redirectPort, "port that redirects to https name; 0: the port of --https-addr")
	fs.StringSliceVar(&f.TrustedProxies, "trusted-proxies", nil,
		"addresses or CIDRs of proxies in front whose X-Forwarded-* fields are believed")
	fs.StringSliceVar(&f.ProxyProtocolFrom, "proxy-protocol-from", nil,
		"addresses or CIDRs of senders that begin every connection with a PROXY protocol header (version 1 or 2)")
	fs.BoolVar(&f.AccessLog, "access-log", true, "write one line a request to standard output")
	fs.StringVar(&f.AccessFormat, "access-log-format", "json", "json, or nginx: the default format of ingress-nginx, without queries and users")
	fs.BoolVar(&f.AllowUnderscores, "allow-underscores", false, `pass on header fields with "_" in their names`)
	f.Log.Register(fs, d.logFormat)
	fs.DurationVar(&f.DrainDelay, "drain-delay", d.drainDelay, "on SIGTERM, how long to go on accepting: until load balancers have noticed")
	fs.DurationVar(&f.DrainTimeout, "drain-timeout", d.drainTimeout, "on SIGTERM, how long requests in flight and tunnels may take to finish")
	f.eachTimeout(func(field *time.Duration, name string, value time.Duration, usage string) {
		fs.DurationVar(field, name, value, usage)
	})
	f.Limits.register(fs)
}

// accessFormats are the values of --access-log-format.
var accessFormats = map[string]proxy.AccessFormat{"json": proxy.JSONLine, "nginx": proxy.NginxLine}

// options are the parsed proxyFlags.
type proxyOptions struct {
	trusted           view.Trust
	proxyProtocolFrom []netip.Prefix
	redirectPort      int          // 0: the port of the HTTPS socket
	tokens            *acme.Tokens // nil: no challenges are answered
}

func (f *proxyFlags) options() (*proxyOptions, error) {
	var errs []error
	o := &proxyOptions{redirectPort: f.RedirectPort}
	check := func(flag string, err error) {
		if err != nil {
			errs = append(errs, program.FlagError(flag, err))
		}
	}
	for flag, addr := range map[string]string{"http-addr": f.HTTPAddr, "https-addr": f.HTTPSAddr, "admin-addr": f.AdminAddr, "debug-addr": f.DebugAddr} {
		check(flag, program.CheckAddr(addr))
	}
	if f.HTTPAddr == "" && f.HTTPSAddr == "" {
		check("http-addr", errors.New("with --https-addr empty too there is nothing to serve on"))
	}
	var err error
	o.trusted, err = program.ParsePrefixes(f.TrustedProxies)
	check("trusted-proxies", err)
	o.proxyProtocolFrom, err = program.ParsePrefixes(f.ProxyProtocolFrom)
	check("proxy-protocol-from", err)
	if o.redirectPort < 0 || o.redirectPort > 65535 {
		check("https-redirect-port", fmt.Errorf("%d is not a port", o.redirectPort))
	}
	if accessFormats[f.AccessFormat] == nil {
		check("access-log-format", fmt.Errorf("%q is neither json nor nginx", f.AccessFormat))
	}
	if err := f.Log.Validate(); err != nil {
		errs = append(errs, err)
	}
	for flag, d := range map[string]time.Duration{"drain-delay": f.DrainDelay, "drain-timeout": f.DrainTimeout} {
		if d < 0 {
			check(flag, fmt.Errorf("%s is negative", d))
		}
	}
	f.eachTimeout(func(field *time.Duration, name string, _ time.Duration, _ string) {
		if *field <= 0 {
			check(name, fmt.Errorf("%s is not above 0; where there is to be no limit, give a long time, as 8760h", *field))
		}
	})
	errs = append(errs, f.Limits.validate()...)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return o, errors.Join(errs...)
}

func portOf(addr string) int {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return n
}

func listenPort(ln net.Listener) int { return portOf(ln.Addr().String()) }

// eachTimeout yields one flag for each phase of a request, with its default.
func (f *proxyFlags) eachTimeout(yield func(field *time.Duration, name string, value time.Duration, usage string)) {
	t, u := &f.Timeouts, &f.Upstream
	yield(&f.HandshakeTimeout, "handshake-timeout", 10*time.Second, "time for a PROXY protocol header, and for a TLS handshake")
	yield(&t.ReadHeader, "client-header-timeout", 10*time.Second, "time for a request head to arrive")
	yield(&t.Idle, "client-idle-timeout", 75*time.Second, "time that a client connection may wait for its next request")
	yield(&t.BodyStall, "client-body-timeout", time.Minute, "time between two reads of a request body; see also --client-body-min-rate")
	yield(&t.BodyGrace, "client-body-grace", 10*time.Second, "time for a request body before --client-body-min-rate counts")
	yield(&t.WriteStall, "client-write-timeout", time.Minute, "time for a client to take what is written to it")
	yield(&t.Tunnel, "tunnel-timeout", time.Hour, "time without a byte in either direction after which a WebSocket or other upgraded connection ends")
	yield(&u.Connect, "backend-connect-timeout", 5*time.Second, "time to connect to an endpoint")
	yield(&u.Head, "backend-response-timeout", time.Minute, "time for a backend to begin its response")
	yield(&u.Stall, "backend-stall-timeout", time.Minute, "time between two reads or writes of a backend connection")
	yield(&u.KeepAlive, "backend-idle-timeout", 55*time.Second, "time that an unused backend connection is kept")
}
