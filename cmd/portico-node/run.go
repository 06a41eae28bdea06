//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/node"
	"github.com/portico-ingress/portico/router/l4/conntrack"
	"github.com/portico-ingress/portico/router/l4/nft"
)

// runFlags are those of run.
type runFlags struct {
	kube                               kubeFlags
	node                               nodeFlags
	conntrack                          conntrackFlags
	setSysctls                         bool
	families                           []string
	healthAddr, metricsAddr, debugAddr string
	log                                program.LogFlags
}

func newRun() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Follow an apiserver and program this node",
		Long: `Run follows the Services, EndpointSlices and ServiceCIDRs of a cluster and its
own Node, and programs the nftables of the network namespace that it runs in. It
needs the capability NET_ADMIN.

What is programmed stays when it ends, however it ends, and goes on working:
connections are not lost by a restart or an upgrade. Beside a kube-proxy that
runs or ran, its rules go first. portico-node --cleanup removes them.`,
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.ErrOrStderr()) },
	}
	fs := cmd.Flags()
	f.kube.register(fs)
	f.node.register(fs)
	f.conntrack.register(fs)
	fs.BoolVar(&f.setSysctls, "set-sysctls", false, "set the table of connections as the flags --conntrack-* say; else portico-node check reports what differs")
	fs.StringSliceVar(&f.families, "ip-families", nil, "ipv4, ipv6 or both (default: those that the kernel has)")
	fs.StringVar(&f.healthAddr, "health-addr", ":10256", "address for /healthz, /livez and /readyz; empty: none")
	fs.StringVar(&f.metricsAddr, "metrics-addr", "127.0.0.1:10249", "address for /metrics and /proxyMode; empty: none")
	fs.StringVar(&f.debugAddr, "debug-addr", defaultDebugAddr, debugAddrUsage+"; empty: none")
	f.log.Register(fs, "json")
	return cmd
}

func (f *runFlags) validate() error {
	errs := []error{f.conntrack.validate(), f.log.Validate()}
	for _, a := range []struct{ flag, addr string }{{"health-addr", f.healthAddr}, {"metrics-addr", f.metricsAddr}, {"debug-addr", f.debugAddr}} {
		if err := program.CheckAddr(a.addr); err != nil {
			errs = append(errs, program.FlagError(a.flag, err))
		}
	}
	for _, family := range f.families {
		if family != "ipv4" && family != "ipv6" {
			errs = append(errs, program.FlagError("ip-families", fmt.Errorf("%q is neither ipv4 nor ipv6", family)))
		}
	}
	return errors.Join(errs...)
}

func (f *runFlags) run(ctx context.Context, stderr io.Writer) error {
	o, k, err := f.node.options()
	config, kubeErr := f.kube.config()
	if err := errors.Join(err, f.validate(), kubeErr); err != nil {
		return program.UsageError(err)
	}
	log := f.log.New(stderr)
	klog.SetLogger(log.WithName("client"))
	if o.Client, err = kubernetes.NewForConfig(config); err != nil {
		return program.UsageError(err)
	}
	if err := f.chooseFamilies(ctx, f.conntrack.host().IPv6(), &k, log); err != nil {
		return err
	}
	kernel, err := nft.Open(k)
	if err != nil {
		return err
	}
	flows, err := conntrack.Open(node.InterfaceAddresses)
	if err != nil {
		return errors.Join(err, kernel.Close())
	}
	o.Kernel, o.Conntrack, o.Metrics, o.Log = kernel, flows, node.NewMetrics(!k.NoIPv4, !k.NoIPv6), log.WithName("node")
	c, err := node.New(o)
	if err != nil {
		return errors.Join(err, kernel.Close(), flows.Close())
	}
	f.prepareHost(log)
	log.Info("starting", "version", program.Version(), "node", o.Translate.NodeName, "apiserver", config.Host,
		"health", f.healthAddr, "metrics", f.metricsAddr, "debug", f.debugAddr)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		release, err := await(ctx, log)
		if err != nil {
			return ignoreCanceled(err)
		}
		group.Go(func() error { hint(ctx, config.Host, c.Waiting, log); return nil })
		return errors.Join(c.Start(ctx), release())
	})
	group.Go(func() error { return kernel.Watch(ctx) })
	group.Go(func() error { announce(ctx, c, log); return nil })
	for _, p := range f.pages(c, o.Metrics) {
		group.Go(func() error { return p.serve(ctx, log) })
	}
	return errors.Join(group.Wait(), kernel.Close(), flows.Close())
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// announce says when the node forwards.
func announce(ctx context.Context, c *node.Controller, log logr.Logger) {
	select {
	case <-c.Programmed():
		log.Info("everything is programmed")
	case <-ctx.Done():
	}
}

// chooseFamilies leaves out the families that were not asked for. If none was, it
// leaves out IPv6 where the node has none, or the kernel does not take what is to be
// programmed for it, which is asked some times: a node must not lose its IPv6, for as
// long as this process lives, because of what was the matter for a moment.
func (f *runFlags) chooseFamilies(ctx context.Context, hasIPv6 bool, k *nft.Options, log logr.Logger) error {
	asked := len(f.families) > 0
	k.NoIPv4 = asked && !slices.Contains(f.families, "ipv4")
	k.NoIPv6 = asked && !slices.Contains(f.families, "ipv6") || !asked && !hasIPv6
	if !asked && !hasIPv6 {
		log.Info("the node has no IPv6: the family is left out", "advice", "if it has, --ip-families=ipv4,ipv6")
	}
	for _, family := range []struct {
		name string
		off  *bool
		only nft.Options
	}{{"ipv4", &k.NoIPv4, nft.Options{NoIPv6: true}}, {"ipv6", &k.NoIPv6, nft.Options{NoIPv4: true}}} {
		if *family.off {
			continue
		}
		err := probeAgain(ctx, family.only)
		if err == nil {
			continue
		}
		if asked || family.name == "ipv4" || ctx.Err() != nil {
			return fmt.Errorf("the kernel does not take what is to be programmed for %s: %w; portico-node check says what it lacks", family.name, err)
		}
		log.Info("the kernel does not take what is to be programmed: the family is left out", "family", family.name, "why", err.Error())
		*family.off = true
	}
	return nil
}

// probeAgain probes until the kernel takes it, for about a second.
func probeAgain(ctx context.Context, o nft.Options) error {
	for tries := 1; ; tries++ {
		err := nft.Probe(ctx, o)
		if err == nil || tries == probes {
			return err
		}
		select {
		case <-time.After(probeAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	probes     = 5
	probeAfter = 200 * time.Millisecond
)

// prepareHost sets the table of connections, if it may, and names what other
// proxies left.
func (f *runFlags) prepareHost(log logr.Logger) {
	h := f.conntrack.host()
	if f.setSysctls {
		set, err := h.Write(f.conntrack.settings())
		if len(set) > 0 {
			log.Info("set sysctls", "values", set)
		}
		if err != nil {
			log.Error(err, "sysctls are not as --set-sysctls asks for", "advice", "is --sysctl-dir writable?")
		}
	}
	for _, l := range h.Leftovers() {
		if l.Remedy != "" {
			log.Info("found another proxy", "what", l.Subject, "found", l.Message, "advice", l.Remedy)
		}
	}
}
