package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/prove"
)

// proveFlags are the flags of prove.
type proveFlags struct {
	prove.Options
	kubeconfig string
}

func newProve() *cobra.Command {
	var f proveFlags
	cmd := &cobra.Command{
		Use:   "prove",
		Short: "Roll out a sample in your cluster under load, and count lost requests",
		Long: `Prove makes a small application of its own behind an Ingress in your cluster,
sends requests to it over HTTP/1.1 and HTTP/2 without ever sending one again,
rolls the application out several times meanwhile, and prints how many requests
were sent, answered and lost. Then it removes the application. The exit code is
1 if a request was lost.

It needs the right to create, get and delete Deployments, Services and Ingresses
in its namespace, and to patch Deployments; with that to list Pods, it can say
why they do not start. helm test runs it.`,
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", program.KubeconfigUsage)
	fs.StringVarP(&f.Namespace, "namespace", "n", "", "where the application is made (default: the pod's namespace, or that of the kubeconfig's context)")
	fs.StringVar(&f.IngressClass, "ingress-class", "portico", "IngressClass of its Ingress")
	fs.StringVar(&f.Address, "address", "", "HOST:PORT where the controller takes HTTPS (default: the address in the Ingress's status, port 443)")
	fs.StringVar(&f.Image, "image", "", "image of Portico, which is the application too: the one that the cluster runs (required)")
	fs.StringSliceVar(&f.PullSecrets, "image-pull-secret", nil, "names of Secrets for a private registry")
	fs.IntVar(&f.Rollouts, "rollouts", 3, "number of rolling updates")
	fs.IntVar(&f.Connections, "connections", 4, "connections of HTTP/1.1, and as many of HTTP/2")
	fs.DurationVar(&f.Timeout, "timeout", 2*time.Minute, "limit of each step: a rolling update, an address, the first answer")
	cmd.AddCommand(newProveBackend())
	return cmd
}

// newProveBackend is what the pods of the application run.
func newProveBackend() *cobra.Command {
	return &cobra.Command{
		Use: "backend", Short: "Serve as the sample that prove rolls out", Args: program.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pod, err := os.Hostname()
			if err != nil {
				return err
			}
			ln, err := prove.ListenBackend(cmd.Context())
			if err != nil {
				return err
			}
			return prove.ServeBackend(cmd.Context(), ln, pod)
		},
	}
}

func (f *proveFlags) run(ctx context.Context, w io.Writer) error {
	if f.Rollouts < 1 || f.Connections < 1 || f.Timeout <= 0 {
		return program.UsageError(fmt.Errorf("--rollouts, --connections and --timeout must be more than 0"))
	}
	if f.Image == "" {
		return program.UsageError(program.FlagError("image", fmt.Errorf("name the image that the cluster runs: kubectl get pods -A -l app.kubernetes.io/name=portico -o jsonpath='{..image}'")))
	}
	if _, _, err := net.SplitHostPort(f.Address); f.Address != "" && err != nil {
		return program.UsageError(program.FlagError("address", fmt.Errorf("%q is not HOST:PORT", f.Address)))
	}
	kube, err := loadKube(f.kubeconfig)
	if err != nil {
		return program.UsageError(err)
	}
	if f.Client, err = client.New(kube.Config, client.Options{Scheme: scheme.Scheme}); err != nil {
		return err
	}
	if f.Namespace == "" {
		f.Namespace = kube.Namespace
	}
	f.Name, f.Progress = "portico-prove-"+utilrand.String(5), w
	result, err := prove.Run(ctx, f.Options)
	if result != nil {
		fmt.Fprintln(w, result)
	}
	if err != nil {
		return err
	}
	if result.Lost() > 0 || result.Answered == 0 {
		return &program.CodedError{Code: program.ExitFailure, Err: fmt.Errorf("%d of %d requests were lost", result.Lost(), result.Sent)}
	}
	return nil
}
