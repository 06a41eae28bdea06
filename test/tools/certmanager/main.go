// Command cert-manager is cert-manager for the tests: its controllers, and the
// solver of HTTP-01 challenges. cert-manager's own commands are modules that the
// Go module proxy does not have, so this one puts together the packages that
// they consist of.
//
//	cert-manager controller SOLVER-IMAGE DNS-ADDRESS
//	cert-manager --listen-port=… --domain=… --token=… --key=…    the solver
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cert-manager/cert-manager/pkg/controller"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmechallenges"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmeorders"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificate-shim/ingresses"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/acme"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/acme"
	"github.com/cert-manager/cert-manager/pkg/issuer/acme/http/solver"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	"github.com/go-logr/stdr"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "controller":
		return control(ctx, args[1], args[2])
	case len(args) > 0 && args[0] != "controller":
		return solve(ctx, args)
	}
	return errors.New("usage: cert-manager controller SOLVER-IMAGE DNS-ADDRESS | SOLVER FLAGS")
}

// control runs the controllers with the defaults of cert-manager's own command,
// but for the name server that its self-check of a challenge asks.
func control(ctx context.Context, solverImage, dns string) error {
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		KubernetesAPIQPS: 20, KubernetesAPIBurst: 50,
		IssuerOptions: controller.IssuerOptions{ClusterResourceNamespace: "cert-manager"},
		ACMEOptions: controller.ACMEOptions{
			HTTP01SolverImage:                 solverImage,
			HTTP01SolverResourceRequestCPU:    resource.MustParse("10m"),
			HTTP01SolverResourceRequestMemory: resource.MustParse("32Mi"),
			HTTP01SolverResourceLimitsCPU:     resource.MustParse("100m"),
			HTTP01SolverResourceLimitsMemory:  resource.MustParse("64Mi"),
			ACMEHTTP01SolverRunAsNonRoot:      true,
			HTTP01SolverNameservers:           []string{dns},
			DNS01CheckRetryPeriod:             10 * time.Second,
		},
		IngressShimOptions: controller.IngressShimOptions{
			DefaultIssuerKind: "Issuer", DefaultIssuerGroup: "cert-manager.io",
			DefaultAutoCertificateAnnotations: []string{"kubernetes.io/tls-acme"},
		},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: time.Hour,
			CertificateRequestMaximumBackoffDuration: 32 * time.Hour,
		},
		SchedulerOptions: controller.SchedulerOptions{MaxConcurrentChallenges: 60},
	})
	if err != nil {
		return err
	}
	var group errgroup.Group
	for name, construct := range controller.Known() {
		c, err := construct(factory)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
		group.Go(func() error { return c.Run(2, ctx) })
	}
	all, err := factory.Build()
	if err != nil {
		return err
	}
	all.SharedInformerFactory.Start(ctx.Done())
	all.KubeSharedInformerFactory.Start(ctx.Done())
	all.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())
	return group.Wait()
}

// solve answers one challenge until it is told to end.
func solve(ctx context.Context, args []string) error {
	var s solver.HTTP01Solver
	fs := flag.NewFlagSet("cert-manager", flag.ContinueOnError)
	fs.IntVar(&s.ListenPort, "listen-port", 8089, "")
	fs.StringVar(&s.Domain, "domain", "", "")
	fs.StringVar(&s.Token, "token", "", "")
	fs.StringVar(&s.Key, "key", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = s.Shutdown(context.WithoutCancel(ctx)) })
	return s.Listen(stdr.New(log.Default()))
}
