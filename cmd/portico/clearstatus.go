package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/status"
	"github.com/portico-ingress/portico/controllers/translate"
)

func newClearStatus() *cobra.Command {
	var kubeconfig string
	var names, namespaces []string
	cmd := &cobra.Command{
		Use:   "clear-status",
		Short: "Remove the addresses that Portico wrote into Ingresses",
		Long: `Clear-status removes the addresses that an instance of Portico wrote into the
status of Ingresses. It is for the time after that instance is gone; helm
uninstall runs it. Addresses that another controller wrote stay.`,
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return clearStatus(cmd.Context(), kubeconfig, names, namespaces, cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&kubeconfig, "kubeconfig", "", program.KubeconfigUsage)
	fs.StringSliceVar(&names, "controller-name", []string{translate.DefaultControllerName}, "what the instance was started with; its first name counts")
	fs.StringSliceVar(&namespaces, "namespaces", nil, "namespaces to look at (default: all)")
	return cmd
}

func clearStatus(ctx context.Context, kubeconfig string, names, namespaces []string, w io.Writer) error {
	kube, err := loadKube(kubeconfig)
	if err != nil {
		return program.UsageError(err)
	}
	c, err := client.New(kube.Config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return err
	}
	n, err := status.Clear(ctx, c, names, namespaces)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "cleared the status of %d Ingresses\n", n)
	return err
}
