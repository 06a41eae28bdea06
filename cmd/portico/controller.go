package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/controllers/ingress"
	"github.com/portico-ingress/portico/controllers/status"
	"github.com/portico-ingress/portico/router/admin"
)

type controllerFlags struct {
	kubeconfig    string
	namespaces    []string
	secrets       []string
	publishStatus string
	service       string
	addresses     []string
	nodes         bool
	podNamespace  string
	podLabels     map[string]string
	elect         bool
	lease         string
	leaseIn       string
	routing       routingFlags
	acme          acmeFlags
	proxy         proxyFlags
}

func newController() *cobra.Command {
	f := &controllerFlags{}
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Serve the Ingresses of a Kubernetes cluster",
		Long: `Controller follows Ingress, IngressClass, Service, EndpointSlice and Secret
objects of a cluster and serves them. Every replica serves; one elected replica
writes status and Events, and orders the certificates that Ingresses ask the
issuers of --acme-issuers or --acme-directory for. Without --publish-service, --publish-address or
--publish-node-addresses no status is written.`,
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	f.register(fs)
	f.routing.register(fs)
	f.acme.register(fs)
	f.acme.registerCluster(fs)
	f.proxy.register(fs, proxyDefaults{redirectPort: 443, logFormat: "json", drainDelay: 10 * time.Second, drainTimeout: 2 * time.Minute})
	return cmd
}

func (f *controllerFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", program.KubeconfigUsage)
	fs.StringSliceVar(&f.namespaces, "namespaces", nil, "namespaces to watch (default: all)")
	fs.StringSliceVar(&f.secrets, "secret-namespaces", nil, `namespaces in which Secrets are read besides --default-tls-secret; "": none (default: --namespaces)`)
	fs.StringVar(&f.publishStatus, "publish-status", "own",
		`whose status.loadBalancer is written: "own" classes, "true": foreign classes that are served too, "false": nobody's`)
	fs.Lookup("publish-status").NoOptDefVal = "true"
	fs.StringVar(&f.service, "publish-service", "", "NAMESPACE/NAME of the Service in front of Portico, whose addresses go into status")
	fs.StringSliceVar(&f.addresses, "publish-address", nil, "address or DNS name that goes into status; repeatable")
	fs.BoolVar(&f.nodes, "publish-node-addresses", false, "put the addresses of the nodes into status")
	fs.StringVar(&f.podNamespace, "pod-namespace", "", "with --publish-node-addresses: namespace of our pods, to name only the nodes that run them")
	fs.StringToStringVar(&f.podLabels, "pod-labels", nil, "with --publish-node-addresses: labels of our pods, KEY=VALUE")
	fs.BoolVar(&f.elect, "leader-elect", true, "elect one replica for status and Events; false: this one writes them")
	fs.StringVar(&f.lease, "leader-elect-lease", "", "name of the Lease (default: made of the first --controller-name)")
	fs.StringVar(&f.leaseIn, "leader-elect-namespace", "", "namespace of the Lease (default: our own)")
}

func (f *controllerFlags) run(ctx context.Context, stdout, stderr io.Writer) error {
	r, err1 := f.routing.options()
	o, err2 := f.proxy.options()
	st, err3 := f.status()
	issued, err4 := f.acme.certificates()
	if err := errors.Join(err1, err2, err3, err4, f.acme.checkNamespace()); err != nil {
		return program.UsageError(err)
	}
	if issued != nil {
		o.tokens = issued.tokens
	}
	log := f.proxy.Log.New(stderr)
	ctrl.SetLogger(log)
	klog.SetLogger(log.WithName("client"))
	kube, err := loadKube(f.kubeconfig)
	if err != nil {
		return program.UsageError(err)
	}
	p, err := newPlane(&f.proxy, o, r, false, stdout, log)
	if err != nil {
		return err
	}
	watches, apiserver := ingress.NewWatches(log.WithName("watch")), ingress.NewApiserver(log.WithName("apiserver"))
	kube.Config.Wrap(apiserver.Wrap)
	mgr, err := f.manager(kube, watches, log)
	if err != nil {
		return err
	}
	opts := ingress.Options{
		Translate: r.translate, Namespaces: f.namespaces, SecretNamespaces: f.secrets, Watches: watches, Apiserver: apiserver, DefaultTLSSecret: r.defaultTLS, DefaultBackend: r.router.Default,
		Publisher: p.publisher, Registry: p.registry, Certs: p.certs, Log: log.WithName("ingress"),
	}
	var certificates *certs.Cluster
	if issued != nil {
		if certificates, err = issued.inCluster(mgr, &f.acme, p, r, log.WithName("certificates")); err != nil {
			return err
		}
		opts.Secrets, opts.Await = certificates, certificates.AwaitStored
		p.await, st.Also = certificates.AwaitPlan, certificates.Lead
	} else if err := certs.NewUnconfigured(mgr, r.translate, p.publisher); err != nil {
		return err
	}
	follows, err := ingress.New(mgr, opts)
	if err != nil {
		return err
	}
	st.Translate, st.Problems, st.Log = r.translate, p.publisher, log.WithName("status")
	st.Lease = f.writerLease(kube)
	if err := status.New(mgr, *st); err != nil {
		return err
	}
	log.Info("starting", "version", program.Version(), "controllerNames", f.routing.ControllerNames,
		"http", f.proxy.HTTPAddr, "https", f.proxy.HTTPSAddr, "admin", f.proxy.AdminAddr, "debug", f.proxy.DebugAddr)
	return p.run(ctx, follower{mgr}, readiness(follows, certificates))
}

// follower is a manager that ends with its context. Waiting for caches that
// are never filled, for want of rights or of an apiserver, controller-runtime
// does not.
type follower struct{ mgr manager.Manager }

func (f follower) Start(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- f.mgr.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case <-f.mgr.Elected(): // started, whoever is elected: it does not elect
		return <-ended
	default:
		return nil
	}
}

// readiness shows the controllers' conditions as the admin page takes them.
// certificates is nil where no issuer is configured.
func readiness(c *ingress.Controller, certificates *certs.Cluster) admin.Checks {
	return func() []admin.Check {
		var checks []admin.Check
		for _, check := range c.Ready() {
			checks = append(checks, admin.Check(check))
		}
		if certificates != nil {
			ready, detail := certificates.Ready()
			checks = append(checks, admin.Check{Name: "certificates", Ready: ready, Detail: detail})
		}
		return checks
	}
}

func (f *controllerFlags) manager(kube *program.Kube, watches *ingress.Watches, log logr.Logger) (manager.Manager, error) {
	return manager.New(kube.Config, manager.Options{
		Scheme:         scheme.Scheme,
		Logger:         log,
		MapperProvider: ingress.NewRESTMapper,
		Cache:          ingress.CacheOptions(f.namespaces, status.FieldManager(f.routing.ControllerNames), watches),
		Metrics:        metricsserver.Options{BindAddress: "0"}, // ours are at --admin-addr
	})
}

// writerLease is what elects the replica that writes. It is not the manager's
// election: that one would end the process when the apiserver is lost.
func (f *controllerFlags) writerLease(kube *program.Kube) status.Lease {
	if !f.elect {
		return status.Lease{}
	}
	return status.Lease{
		Namespace: cmp.Or(f.leaseIn, kube.Namespace),
		Name:      cmp.Or(f.lease, "portico-"+strings.ReplaceAll(f.routing.ControllerNames[0], "/", "-")),
	}
}

func (f *controllerFlags) status() (*status.Options, error) {
	var errs []error
	o := &status.Options{Source: status.Source{Addresses: f.addresses, Nodes: f.nodes, Pods: status.Pods{Namespace: f.podNamespace, Labels: f.podLabels}}}
	if on, err := strconv.ParseBool(f.publishStatus); err == nil {
		o.Publish = status.Nothing
		if on {
			o.Publish = status.AllClasses
		}
	} else if f.publishStatus != "own" {
		errs = append(errs, program.FlagError("publish-status", fmt.Errorf(`%q is not "own", "true" or "false"`, f.publishStatus)))
	}
	if f.service != "" {
		ns, name, err := namespacedName(f.service)
		if err != nil {
			errs = append(errs, program.FlagError("publish-service", err))
		}
		o.Source.Service = types.NamespacedName{Namespace: ns, Name: name}
	}
	for _, a := range f.addresses {
		if _, err := netip.ParseAddr(a); err != nil && len(validation.IsDNS1123Subdomain(a)) > 0 {
			errs = append(errs, program.FlagError("publish-address", fmt.Errorf("%q is neither an address nor a DNS name", a)))
		}
	}
	if err := o.Source.Validate(); err != nil {
		errs = append(errs, err)
	}
	return o, errors.Join(errs...)
}
