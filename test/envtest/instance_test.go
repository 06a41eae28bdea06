package envtest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/controllers/ingress"
	"github.com/portico-ingress/portico/controllers/status"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/test/envtest"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

// settings of an instance that a test wants otherwise than start has them.
type settings struct {
	config      *rest.Config
	namespaces  []string
	secrets     []string // namespaces
	controllers []string
	translate   translate.Options
	router      router.Options
	status      status.Options
	defaultTLS  certstore.SecretRef
	silent      bool          // logs nothing
	interval    time.Duration // between tables; 0 is the default
	issuers     *acme.Issuers // nil: no certificates are got
	storage     string        // the namespace of their storage
}

// An instance is one Portico, wired as the command wires it.
type instance struct {
	front
	t         testing.TB
	registry  *upstream.Registry
	certs     *certstore.Store
	publisher *publish.Publisher
	follows   *ingress.Controller
	issued    *certs.Cluster // nil without issuers
	stop      func()         // ends it and waits; may be called again
}

// start runs an instance that serves the class of the test, until the test
// ends or stop is called.
func (c *cluster) start(change ...func(*settings)) *instance {
	c.t.Helper()
	s := &settings{
		config:      envtest.Config(),
		namespaces:  []string{c.namespace},
		controllers: []string{c.controller},
	}
	s.status.Publish = status.AllClasses // controller names of tests are not our own
	for _, f := range change {
		f(s)
	}
	s.translate.ControllerNames = s.controllers
	in := &instance{t: c.t, registry: upstream.NewRegistry(upstream.Options{Dial: dialBackend})}
	mgr := in.build(c, s)
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error { return mgr.Start(ctx) })
	in.serve(ctx, &group)
	in.stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			c.t.Errorf("the instance ended with %v", err)
		}
		in.registry.Close()
	})
	c.t.Cleanup(in.stop)
	return in
}

func (in *instance) build(c *cluster, s *settings) manager.Manager {
	in.t.Helper()
	must := func(err error) {
		in.t.Helper()
		if err != nil {
			in.t.Fatal(err)
		}
	}
	log := testr.NewWithInterface(quiet{in.t}, testr.Options{})
	if s.silent {
		log = logr.Discard()
	}
	skip := true
	watches := ingress.NewWatches(log.WithName("ingress"))
	mgr, err := manager.New(s.config, manager.Options{
		Scheme:         scheme.Scheme,
		Logger:         log,
		MapperProvider: ingress.NewRESTMapper,
		Cache:          ingress.CacheOptions(s.namespaces, status.FieldManager(s.controllers), watches),
		Metrics:        metricsserver.Options{BindAddress: "0"},
		Controller:     config.Controller{SkipNameValidation: &skip},
	})
	must(err)
	in.certs, err = certstore.New(certstore.Options{})
	must(err)
	in.certs.SetDefault(s.defaultTLS)
	in.publisher = publish.New(publish.Options{Router: s.router, Registry: in.registry, Certs: in.certs, Interval: s.interval, Log: log.WithName("publish")})
	must(mgr.Add(in.publisher))
	opts := ingress.Options{
		Translate: s.translate, Namespaces: s.namespaces, SecretNamespaces: s.secrets, Watches: watches, DefaultTLSSecret: s.defaultTLS, DefaultBackend: s.router.Default,
		Publisher: in.publisher, Registry: in.registry, Certs: in.certs, Log: log.WithName("ingress"),
	}
	if s.issuers != nil {
		in.issued, err = certs.New(mgr, certs.ClusterOptions{
			Issuers: s.issuers, Tokens: acme.NewTokens(nil), Namespace: s.storage, Translate: s.translate,
			Publisher: in.publisher, Certs: in.certs, Zap: zap.NewNop(), Log: log.WithName("certificates"),
		})
		must(err)
		opts.Secrets, opts.Await, s.status.Also = in.issued, in.issued.AwaitStored, in.issued.Lead
	}
	in.follows, err = ingress.New(mgr, opts)
	must(err)
	s.status.Translate, s.status.Problems, s.status.Log = s.translate, in.publisher, log.WithName("status")
	must(status.New(mgr, s.status))
	return mgr
}
